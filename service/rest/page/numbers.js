// Numbers as people read them.

/** A share of 0 to 1 in per cent; never "100 %" or "0 %" of what is not quite that. */
export function percent(share, digits = 2) {
  const value = 100 * share;
  const least = 10 ** -digits;
  if (value > 0 && value < least / 2) return `< ${least} %`;
  if (value < 100 && value > 100 - least / 2) return `> ${(100 - least).toFixed(digits)} %`;
  return `${value.toFixed(digits)} %`;
}

/** A whole number with its thousands apart. */
export function whole(number) {
  return Number(number).toLocaleString("en-US");
}

/** A number in millions or thousands where it is large. */
export function short(number) {
  const [value, unit] = number >= 1e9 ? [number / 1e9, " G"] : number >= 1e6 ? [number / 1e6, " M"] : number >= 1e4 ? [number / 1e3, " k"] : [number, ""];
  return unit ? `${value.toPrecision(3)}${unit}` : whole(value);
}

export function plural(count, noun) {
  return `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** Wilson's 95 % interval of a share: its two ends. */
export function interval(correct, count) {
  const z = 1.959964;
  const share = correct / count;
  const middle = share + z ** 2 / (2 * count);
  const half = z * Math.sqrt((share * (1 - share)) / count + z ** 2 / (4 * count ** 2));
  const scale = 1 + z ** 2 / count;
  return [Math.max(0, (middle - half) / scale), Math.min(1, (middle + half) / scale)];
}

/** Seconds as the largest units that fit. */
export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** A data set's name as it is written. */
export function dataset(name) {
  return { mnist: "MNIST", cifar10: "CIFAR-10", "fashion-mnist": "Fashion-MNIST", "": "Other" }[name] ?? name;
}
