# The runtime as an image: docker build -t agent-runtime .
# Pin the base to a digest for a build that can be repeated:
#   docker build --build-arg PYTHON_IMAGE=python:3.13-slim-trixie@sha256:… -t agent-runtime .
ARG PYTHON_IMAGE=python:3.13-slim-trixie

# ---- what the lock file says, and the runtime itself as a wheel --------------------------------

FROM ${PYTHON_IMAGE} AS build

ARG UV_VERSION=0.13.9
RUN pip install --no-cache-dir --disable-pip-version-check "uv==${UV_VERSION}"

ENV UV_PROJECT_ENVIRONMENT=/opt/agent-runtime \
    UV_PYTHON=/usr/local/bin/python3 \
    UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1 \
    UV_NO_CACHE=1

WORKDIR /src
# Dependencies first: they change less often than the code.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-default-groups --no-install-project
COPY LICENSE README.md ./
COPY agent_runtime agent_runtime
COPY tools tools
RUN uv sync --frozen --no-default-groups --no-editable

# ---- what runs ---------------------------------------------------------------------------------

FROM ${PYTHON_IMAGE}

# git for working copies, ssh for remotes with a deploy key. What tasks need beyond it belongs into an image of yours: docs/deploy.md.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git openssh-client \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 agent-runtime \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin agent-runtime \
    && mkdir --mode 0711 /var/lib/agent-runtime \
    && chown 10001:10001 /var/lib/agent-runtime

COPY --from=build /opt/agent-runtime /opt/agent-runtime
COPY examples/container/config.yaml /etc/agent-runtime/config.yaml

# State in /var/lib/agent-runtime, settings in /etc/agent-runtime/config.yaml.
ENV PATH=/opt/agent-runtime/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_CONFIG_HOME=/etc \
    XDG_STATE_HOME=/var/lib

# A number, so that Kubernetes sees that it is not root.
USER 10001:10001
WORKDIR /tmp
VOLUME ["/var/lib/agent-runtime", "/tmp"]
EXPOSE 8700

# http.client asks no proxy, whatever the environment says.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 \
    CMD ["python3", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8700, timeout=4); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]

# As process 1 it starts itself once more, and reaps what nobody else does: no tini, no --init.
# TLS ends before the container (config.yaml): publish the port on 127.0.0.1, or to a proxy.
ENTRYPOINT ["agent-runtime"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8700"]
