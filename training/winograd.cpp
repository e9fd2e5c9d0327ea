// Convolutions with 3x3 kernels, stride 1 and zero padding 1, by Winograd's minimal filtering F(4x4, 3x3): a tile of
// 4x4 results of one channel takes 36 multiplications in place of 144.
//
// Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), whose matrices these are. Tiles
// of 6x6 pixels become 36 numbers that do not mix (`enter`); for each of the 36 the channels are mixed by one product
// of matrices; 36 numbers become 4x4 results (`leave`). The gradient passes through the transposes of the same steps.
//
// Maps are [images, height, width, channels], dense; channels are multiples of 16. Each thread has a share of the
// images, which depends on nothing but their number, so results are the same bit for bit each time.

#include <algorithm>
#include <cstring>

namespace {

typedef float Vector __attribute__((vector_size(32), aligned(4), may_alias));
constexpr long WIDTH = 8;       // floats in a vector
constexpr long PANEL = 16;      // columns of a product that are computed together
constexpr int ROWS = 6;         // rows of it: 6 x 16 sums fill twelve of sixteen registers
constexpr long NUMBERS = 36;    // of a tile
constexpr long TILES = 72;      // about so many tiles at a time: their 36 numbers stay in the third-level cache
constexpr long MOST = 4096;     // channels

alignas(64) const float nothing[MOST] = {};

Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
void store(float* to, Vector values) { *reinterpret_cast<Vector*>(to) = values; }

struct Maps {
  long height, width;
  long down() const { return (height + 3) / 4; }
  long tiles() const { return down() * ((width + 3) / 4); }
  long pixels() const { return height * width; }
};

// sums[rows][16] = left[rows][depth] x right[depth][16], or += with `add`. Neighbours in a row of `left` are `step`
// apart, its rows `left_row`; rows of `sums` are `sums_row` apart.
template <int rows>
void multiply_rows(long depth, const float* left, long left_row, long step, const float* right, float* sums,
                   long sums_row, bool add) {
  Vector low[rows] = {}, high[rows] = {};
  for (int row = 0; row < rows; row++) __builtin_prefetch(sums + row * sums_row, 1);
  for (long k = 0; k < depth; k++) {
    const Vector first = load(right + k * PANEL), second = load(right + k * PANEL + WIDTH);
    for (int row = 0; row < rows; row++) {
      const float factor = left[row * left_row + k * step];
      low[row] += factor * first;
      high[row] += factor * second;
    }
  }
  for (int row = 0; row < rows; row++) {
    float* to = sums + row * sums_row;
    store(to, add ? load(to) + low[row] : low[row]);
    store(to + WIDTH, add ? load(to + WIDTH) + high[row] : high[row]);
  }
}

void multiply(long rows, long depth, const float* left, long left_row, long step, const float* right, float* sums,
              long sums_row, bool add) {
  long row = 0;
  for (; row + ROWS <= rows; row += ROWS)
    multiply_rows<ROWS>(depth, left + row * left_row, left_row, step, right, sums + row * sums_row, sums_row, add);
  for (; row + 2 <= rows; row += 2)
    multiply_rows<2>(depth, left + row * left_row, left_row, step, right, sums + row * sums_row, sums_row, add);
  for (; row < rows; row++)
    multiply_rows<1>(depth, left + row * left_row, left_row, step, right, sums + row * sums_row, sums_row, add);
}

// The four one-dimensional steps, of numbers `gap` apart: 6 pixels → 6 numbers, 6 numbers → 4 results, and transposed.
inline __attribute__((always_inline)) void enter(const Vector* in, Vector* out, long gap) {
  const Vector a = in[0], b = in[gap], c = in[2 * gap], d = in[3 * gap], e = in[4 * gap], f = in[5 * gap];
  const Vector even = e - 4 * c, odd = d - 4 * b, even2 = e - c, odd2 = 2 * (d - b);
  out[0] = 4 * a - 5 * c + e;
  out[gap] = even + odd;
  out[2 * gap] = even - odd;
  out[3 * gap] = even2 + odd2;
  out[4 * gap] = even2 - odd2;
  out[5 * gap] = 4 * b - 5 * d + f;
}

inline __attribute__((always_inline)) void enter_transposed(const Vector* in, Vector* out, long gap) {
  const Vector a = in[0], b = in[gap], c = in[2 * gap], d = in[3 * gap], e = in[4 * gap], f = in[5 * gap];
  const Vector sum = b + c, difference = b - c, sum2 = d + e, difference2 = d - e;
  out[0] = 4 * a;
  out[gap] = 4 * f - 4 * difference - 2 * difference2;
  out[2 * gap] = -5 * a - 4 * sum - sum2;
  out[3 * gap] = difference + 2 * difference2 - 5 * f;
  out[4 * gap] = a + sum + sum2;
  out[5 * gap] = f;
}

inline __attribute__((always_inline)) void leave(const Vector* in, Vector* out, long gap) {
  const Vector a = in[0], b = in[gap], c = in[2 * gap], d = in[3 * gap], e = in[4 * gap], f = in[5 * gap];
  const Vector sum = b + c, difference = b - c, sum2 = d + e, difference2 = d - e;
  out[0] = a + sum + sum2;
  out[gap] = difference + 2 * difference2;
  out[2 * gap] = sum + 4 * sum2;
  out[3 * gap] = difference + 8 * difference2 + f;
}

inline __attribute__((always_inline)) void leave_transposed(const Vector* in, Vector* out, long gap) {
  const Vector a = in[0], b = in[gap], c = in[2 * gap], d = in[3 * gap];
  const Vector even = a + c, odd = b + d, even2 = a + 4 * c, odd2 = 2 * b + 8 * d;
  out[0] = a;
  out[gap] = even + odd;
  out[2 * gap] = even - odd;
  out[3 * gap] = even2 + odd2;
  out[4 * gap] = even2 - odd2;
  out[5 * gap] = d;
}

// Both directions of a square whose rows are 6 apart: first its columns, of which there are `columns`, then the rows.
template <void step(const Vector*, Vector*, long), int columns, int rows>
inline __attribute__((always_inline)) void both(Vector* square) {
  Vector between[NUMBERS];
  for (int column = 0; column < columns; column++) step(square + column, between + column, 6);
  for (int row = 0; row < rows; row++) step(between + 6 * row, square + 6 * row, 1);
}

// Give the pixels of tile (i, j), `side` x `side` from `shift` before its corner: `outside` for those beyond the edge.
template <typename Float>
void locate(Float* image, Maps maps, long channels, long i, long j, int side, int shift, Float* outside, Float** pixels) {
  for (int row = 0; row < side; row++)
    for (int column = 0; column < side; column++) {
      const long y = 4 * i - shift + row, x = 4 * j - shift + column;
      const bool inside = y >= 0 && y < maps.height && x >= 0 && x < maps.width;
      pixels[6 * row + column] = inside ? image + (y * maps.width + x) * channels : outside;
    }
}

// Call `act(pixels, numbers)` for each tile of some images; its 36 numbers of a channel are `tiles * channels` apart.
template <typename Float, typename Act>
void each_tile(Float* images, long count, Maps maps, long channels, int side, int shift, Float* outside, float* numbers,
               Act act) {
  long tile = 0;
  for (long n = 0; n < count; n++)
    for (long i = 0; i < maps.down(); i++)
      for (long j = 0; j < maps.tiles() / maps.down(); j++, tile++) {
        Float* pixels[NUMBERS];
        locate(images + n * maps.pixels() * channels, maps, channels, i, j, side, shift, outside, pixels);
        act(pixels, numbers + tile * channels);
      }
}

// maps → numbers [36][tiles][channels], by `enter` from 6x6 pixels or by the transpose of `leave` from 4x4 gradients.
template <void step(const Vector*, Vector*, long), int side, int shift>
void gather(const float* images, long count, Maps maps, long channels, float* numbers) {
  const long apart = count * maps.tiles() * channels;
  each_tile(images, count, maps, channels, side, shift, nothing, numbers, [=](const float** pixels, float* to) {
    for (long c = 0; c < channels; c += WIDTH) {
      Vector square[NUMBERS];
      for (int row = 0; row < side; row++)
        for (int column = 0; column < side; column++) square[6 * row + column] = load(pixels[6 * row + column] + c);
      both<step, side, 6>(square);
      for (int k = 0; k < NUMBERS; k++) store(to + k * apart + c, square[k]);
    }
  });
}

// numbers → maps, by `leave` to 4x4 results, or by the transpose of `enter` added to 6x6 gradients.
template <void step(const Vector*, Vector*, long), int side, int shift, bool add>
void spread(float* numbers, long count, Maps maps, long channels, float* images, float* outside) {
  const long apart = count * maps.tiles() * channels;
  each_tile(images, count, maps, channels, side, shift, outside, numbers, [=](float** pixels, float* from) {
    for (long c = 0; c < channels; c += WIDTH) {
      Vector square[NUMBERS];
      for (int k = 0; k < NUMBERS; k++) square[k] = load(from + k * apart + c);
      both<step, 6, side>(square);
      for (int row = 0; row < side; row++)
        for (int column = 0; column < side; column++) {
          float* to = pixels[6 * row + column] + c;
          store(to, add ? load(to) + square[6 * row + column] : square[6 * row + column]);
        }
    }
  });
}

// How the images are divided: a thread's share, and how many of it are computed at a time.
struct Division {
  long share, step;
  Division(long images, Maps maps, long threads) : share((images + threads - 1) / threads) {
    const long most = std::max(1L, TILES / maps.tiles());
    const long steps = (share + most - 1) / most;
    step = (share + steps - 1) / steps;
  }
};

long scratch_of_thread(long images, Maps maps, long in, long out, long threads) {
  const long tiles = Division(images, maps, threads).step * maps.tiles();
  return NUMBERS * tiles * (in + out) + tiles * PANEL + MOST;
}

template <typename Work>
void divide(long threads, Work work) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (long thread = 0; thread < threads; thread++) work(thread);
}

}  // namespace

extern "C" {

// How many floats of scratch the two functions below need.
long winograd_scratch(long images, long height, long width, long in, long out, long threads) {
  return threads * scratch_of_thread(images, {height, width}, in, out, threads);
}

// inputs [images, height, width, in], kernels [36][out / 16][in][16] → outputs [images, height, width, out].
void winograd_forward(const float* inputs, const float* kernels, float* outputs, float* scratch, long images,
                      long height, long width, long in, long out, long threads) {
  const Maps maps{height, width};
  const Division division(images, maps, threads);
  divide(threads, [=](long thread) {
    float* numbers = scratch + thread * scratch_of_thread(images, maps, in, out, threads);
    float* mixed = numbers + NUMBERS * division.step * maps.tiles() * in;
    float* outside = mixed + NUMBERS * division.step * maps.tiles() * out;
    const long last = std::min(images, (thread + 1) * division.share);
    for (long first = thread * division.share; first < last; first += division.step) {
      const long count = std::min(division.step, last - first), tiles = count * maps.tiles();
      gather<enter, 6, 1>(inputs + first * maps.pixels() * in, count, maps, in, numbers);
      for (long k = 0; k < NUMBERS; k++)
        for (long c = 0; c < out; c += PANEL)
          multiply(tiles, in, numbers + k * tiles * in, in, 1, kernels + (k * out + c) * in, mixed + k * tiles * out + c,
                   out, false);
      spread<leave, 4, 0, false>(mixed, count, maps, out, outputs + first * maps.pixels() * out, outside);
    }
  });
}

// gradients of outputs, inputs, kernels [36][in / 16][out][16] → gradients of inputs (where not null), and of the
// transformed kernels, [threads][36][in][out], to be summed over the threads.
void winograd_backward(const float* inputs, const float* gradients, const float* kernels, float* of_inputs,
                       float* of_kernels, float* scratch, long images, long height, long width, long in, long out,
                       long threads) {
  const Maps maps{height, width};
  const Division division(images, maps, threads);
  divide(threads, [=](long thread) {
    float* numbers = scratch + thread * scratch_of_thread(images, maps, in, out, threads);
    float* mixed = numbers + NUMBERS * division.step * maps.tiles() * in;
    float* panel = mixed + NUMBERS * division.step * maps.tiles() * out;
    float* outside = panel + division.step * maps.tiles() * PANEL;
    float* sums = of_kernels + thread * NUMBERS * in * out;
    std::memset(sums, 0, sizeof(float) * NUMBERS * in * out);
    const long last = std::min(images, (thread + 1) * division.share);
    for (long first = thread * division.share; first < last; first += division.step) {
      const long count = std::min(division.step, last - first), tiles = count * maps.tiles();
      gather<enter, 6, 1>(inputs + first * maps.pixels() * in, count, maps, in, numbers);
      gather<leave_transposed, 4, 0>(gradients + first * maps.pixels() * out, count, maps, out, mixed);
      for (long k = 0; k < NUMBERS; k++)
        for (long c = 0; c < out; c += PANEL) {
          for (long tile = 0; tile < tiles; tile++)
            std::memcpy(panel + tile * PANEL, mixed + (k * tiles + tile) * out + c, sizeof(float) * PANEL);
          multiply(in, tiles, numbers + k * tiles * in, 1, in, panel, sums + k * in * out + c, out, true);
        }
      if (of_inputs == nullptr) continue;
      for (long k = 0; k < NUMBERS; k++)
        for (long c = 0; c < in; c += PANEL)
          multiply(tiles, out, mixed + k * tiles * out, out, 1, kernels + (k * in + c) * out, numbers + k * tiles * in + c,
                   in, false);
      float* to = of_inputs + first * maps.pixels() * in;
      std::memset(to, 0, sizeof(float) * count * maps.pixels() * in);
      spread<enter_transposed, 6, 1, true>(numbers, count, maps, in, to, outside);
    }
  });
}

}  // extern "C"
