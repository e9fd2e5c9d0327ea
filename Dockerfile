# The service and its models, without training code, PyTorch, compilers or pip's cache.
#
#   docker build -t convserve .                                CPU
#   docker build -t convserve:gpu --build-arg EXTRA=gpu .      NVIDIA GPU: CUDA and cuDNN come as wheels
#   docker run --rm --read-only -p 8001:8001 convserve
#   docker run --rm --read-only -p 8001:8001 -p 8000:8000 -e CONVSERVE_HTTP_PORT=8000 convserve    HTTP and the page
#   docker run --rm --read-only -p 8001:8001 -v "$PWD/models:/models:ro" convserve    other models
#
# Nothing here needs BuildKit: buildah builds it as well (--format docker keeps the health check).

# Any image with glibc 2.28 or later, and Python 3.11 or later, with its venv module, as python3.
ARG BASE=python:3.12-slim
# Which onnxruntime: cpu, gpu or openvino, an extra of pyproject.toml.
ARG EXTRA=cpu
# 1: the request path is compiled by mypyc, a fifth less CPU for a small request; BASE needs apt-get. 0: pure Python.
ARG COMPILE=1


FROM ${BASE} AS dependencies

ARG EXTRA
WORKDIR /build
COPY pyproject.toml constraints.txt ./
# pip stays outside the environment that is shipped. Only wheels: nothing downloaded is built here.
# Bytecode goes to a tree of its own, the standard library's too: python:*-slim ships none of it, a read-only root
# cannot gain any, and each health check would compile anew what it imports (0.10 s of a core with all bytecode, 0.23 s
# without the library's, 0.40 s without any). It is not checked against its source, so it holds whatever happens to the
# files' times on their way.
RUN set -eu; \
    case "${EXTRA}" in \
        cpu | gpu | openvino) ;; \
        *) echo "EXTRA is '${EXTRA}'; it must be cpu, gpu or openvino" >&2; exit 2 ;; \
    esac; \
    python3 -m venv /opt/pip; \
    python3 -m venv --without-pip /opt/convserve; \
    python3 -c "import tomllib; \
        project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        extras = project['optional-dependencies']; \
        print(*project['dependencies'], *extras['${EXTRA}'], *extras['rest'], sep='\n')" > requirements.txt; \
    /opt/pip/bin/pip --python /opt/convserve/bin/python install \
        --no-cache-dir --no-compile --only-binary :all: -c constraints.txt -r requirements.txt; \
    PYTHONPYCACHEPREFIX=/opt/convserve/pycache python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        -x '/(test|tests|idlelib|lib2to3|tkinter|turtledemo|ensurepip|site-packages|dist-packages)/' \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"; \
    PYTHONPYCACHEPREFIX=/opt/convserve/pycache python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        /opt/convserve/lib


FROM dependencies AS package

ARG COMPILE
# The compiler stays in this stage. python:*-slim has Python's headers, Debian's python3 has not.
RUN set -eu; \
    if [ "${COMPILE}" = 1 ]; then \
        headers="$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"; \
        packages="gcc libc6-dev $([ -e "${headers}" ] || echo libpython3-dev)"; \
        apt-get update --quiet; \
        apt-get install --quiet --yes --no-install-recommends ${packages}; \
    fi
# convserve/ has a link to service/; the models lie in a folder of their own.
COPY pyproject.toml setup.py README.md LICENSE ./
COPY service/ service/
COPY convserve/ convserve/
COPY models/ /models/
# A prefix of its own, so that a change of code changes a small layer. The check-out's file modes may keep others out,
# and the image's user is one of them.
RUN set -eu; \
    CONVSERVE_COMPILE=${COMPILE} /opt/pip/bin/pip --python /opt/convserve/bin/python install \
        --no-cache-dir --no-compile --no-deps --prefix /package .; \
    cp -r /package/lib /opt/convserve/; \
    PYTHONPYCACHEPREFIX=/package/pycache python3 -m compileall -q --invalidation-mode unchecked-hash \
        /opt/convserve/lib/python*/site-packages/convserve; \
    chmod -R a+rX,go-w /package /models
# What is in the image, for scanners: /usr/share/doc/convserve/sbom.json, CycloneDX.
COPY deploy/sbom.py ./
RUN mkdir /sbom && python3 sbom.py /sbom/sbom.json /opt/convserve/lib/python*/site-packages /models /var/lib/dpkg/status


FROM ${BASE}

ARG BASE
ARG EXTRA
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="convserve" \
      org.opencontainers.image.description="Image classifiers as ONNX files, served over gRPC (onnxruntime: ${EXTRA})" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"

COPY --from=dependencies /opt/convserve /opt/convserve
COPY --from=package /package /opt/convserve
# The bundled models; a volume on /models takes their place.
COPY --from=package /models /models
COPY --from=package /sbom /usr/share/doc/convserve

# PYTHONSAFEPATH: `python -m convserve` never takes a `convserve` from the working folder.
# NVIDIA_DRIVER_CAPABILITIES: by default, older NVIDIA runtimes leave out what computes; others do not read it.
ENV PATH="/opt/convserve/bin:${PATH}" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPYCACHEPREFIX=/opt/convserve/pycache \
    PYTHONUNBUFFERED=1 \
    PYTHONSAFEPATH=1 \
    CONVSERVE_REVISION=${REVISION} \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    CONVSERVE_HOST=0.0.0.0 \
    CONVSERVE_METRICS_HOST=0.0.0.0 \
    CONVSERVE_METRICS_PORT=8002 \
    CONVSERVE_MODELS_DIR=/models

# A number, not a name: Kubernetes can tell that it is not root (runAsNonRoot).
USER 10001:10001
# gRPC, metrics, and HTTP where CONVSERVE_HTTP_PORT is 8000.
EXPOSE 8001 8002 8000
STOPSIGNAL SIGTERM
# Settings given as environment variables reach this check too; options after the image's name do not.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["convserve", "health"]
# Without a command, its options are those of `convserve serve`.
ENTRYPOINT ["convserve"]
