# Two images from one file:
#
#   docker build --target worker   -t celeriac-worker .      the library with Redis, to put your app on top of
#   docker build --target operator -t celeriac-operator .    the operator
#
# (A builder that knows no --target takes --build-arg TARGET=operator; worker is the default.)
#
# Both run as a numeric, non-root user and with a read-only root file system (give them a writable /tmp).
# Versions come from requirements/dev.txt, the same pins that the tests run with.
#
# Your app:   FROM celeriac-worker
#             USER 0
#             RUN pip install --no-cache-dir -r requirements.txt
#             USER 10001:10001
#             COPY shop/ /app/shop/
# and the chart's `app: shop` makes it `celeriac -A shop worker`.
ARG BASE_IMAGE=python:3.12-slim
ARG TARGET=worker

FROM ${BASE_IMAGE} AS build
# The environment is copied as it stands: both stages start from the same image, so its Python is at the same path.
ENV PIP_CONSTRAINT=/src/requirements/dev.txt \
    PIP_BUILD_CONSTRAINT=/src/requirements/dev.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv /opt/celeriac
# Dependencies first, installed for an empty package of the same metadata: a change in our source keeps this layer.
COPY requirements/dev.txt requirements/dev.txt
COPY pyproject.toml README.md LICENSE ./
COPY charts/celeriac-operator/files/crds charts/celeriac-operator/files/crds
RUN mkdir -p worker/celeriac operator/celeriac_operator \
 && echo '__version__ = "0"' > worker/celeriac/__init__.py

FROM build AS build-worker
RUN /opt/celeriac/bin/pip install ".[redis]"
COPY worker worker
COPY operator operator
# One wheel holds both packages; without kopf and the Kubernetes client the operator's part lies idle here.
RUN /opt/celeriac/bin/pip install --no-deps --force-reinstall ".[redis]"

FROM build AS build-operator
# Without the Kubernetes client: it reads kubeconfigs, and a pod has none. The way of its service account is the operator's own.
RUN /opt/celeriac/bin/pip install ".[operator-pod,auth]"
COPY worker worker
COPY operator operator
RUN /opt/celeriac/bin/pip install --no-deps --force-reinstall ".[operator-pod,auth]" \
 && /opt/celeriac/bin/pip uninstall -y pip setuptools

FROM ${BASE_IMAGE} AS runtime
# The passwd entry is for programs that ask who they are; USER is numeric so that runAsNonRoot can check it.
RUN groupadd --gid 10001 celeriac \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin celeriac
# Bytecode was compiled at build time and cannot be written later. HOME must be a place that can be written.
ENV PATH=/opt/celeriac/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM

FROM runtime AS worker
COPY --from=build-worker /opt/celeriac /opt/celeriac
WORKDIR /app
ENV PYTHONPATH=/app \
    CELERIAC_PROFILE=kubernetes
ENTRYPOINT ["celeriac"]
CMD ["--help"]

FROM runtime AS operator
COPY --from=build-operator /opt/celeriac /opt/celeriac
WORKDIR /tmp
ENTRYPOINT ["celeriac-operator"]
CMD ["run"]

FROM ${TARGET} AS image
