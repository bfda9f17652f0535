# The images of all components, a target each: python, python-spark, python-torch, python-serve. docs/images.md says how to build
# them; images/build.py fills the arguments in and refuses a base image without a digest.
#
#     .venv/bin/python images/build.py python --base-image REGISTRY/python:3.11-slim-bookworm@sha256:… --registry REGISTRY
#
# Packages come from images/<image>/requirements.lock alone, hash by hash. Credentials for a private index are the build secret
# `pip_conf` (a pip.conf): mounted while pip runs, in no layer. Nothing below writes outside /opt, so a pod may make the root
# file system read-only and mount an emptyDir at /tmp.

# CPython 3.11 on Debian 12 or a distribution like it, named with @sha256:.
ARG BASE_IMAGE

# ---------------------------------------------------------------- what builds, and stays behind
FROM ${BASE_IMAGE} AS build
# An index without credentials; for one with, mount the secret.
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
ENV PYTHONHASHSEED=0
WORKDIR /build
COPY --chown=0:0 images/build.lock images/install.sh ./
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    python3 -m venv /build/tools \
    && python3 -m venv --without-pip /opt/venv \
    && /build/tools/bin/python -m pip install --no-cache-dir --no-deps --require-hashes -r build.lock

FROM build AS code
ARG SOURCE_DATE_EPOCH=0
COPY --chown=0:0 pyproject.toml LICENSE /opt/tutelage/
COPY --chown=0:0 src /opt/tutelage/src
COPY --chown=0:0 components /opt/tutelage/components
COPY --chown=0:0 pipelines /opt/tutelage/pipelines
COPY --chown=0:0 images /opt/tutelage/images
# What `tutelage submit` reads, and the small files that recipes name.
COPY --chown=0:0 recipes /opt/tutelage/recipes
COPY --chown=0:0 compiled /opt/tutelage/compiled
COPY --chown=0:0 manifests/mounts.yaml /opt/tutelage/manifests/mounts.yaml
RUN python3 /opt/tutelage/images/layout.py code /opt/tutelage --epoch "${SOURCE_DATE_EPOCH}"

FROM build AS packages-python
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
ARG SOURCE_DATE_EPOCH=0
COPY --chown=0:0 images/python/requirements.lock images/layout.py ./
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    ./install.sh requirements.lock && python3 layout.py packages /opt/venv --epoch "${SOURCE_DATE_EPOCH}"

FROM build AS packages-python-spark
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
ARG SOURCE_DATE_EPOCH=0
COPY --chown=0:0 images/python-spark/requirements.lock images/layout.py ./
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    ./install.sh requirements.lock && python3 layout.py packages /opt/venv --epoch "${SOURCE_DATE_EPOCH}"

FROM build AS packages-python-torch
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
ARG SOURCE_DATE_EPOCH=0
# cpu or cuda. The CPU build is not on PyPI: PIP_FIND_LINKS, or pip_conf, names where it is.
ARG TORCH=cpu
COPY --chown=0:0 images/python-torch/requirements.lock images/cuda.lock images/layout.py ./
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    ./install.sh requirements.lock "${TORCH}" && python3 layout.py packages /opt/venv --epoch "${SOURCE_DATE_EPOCH}"

FROM build AS packages-python-serve
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
ARG SOURCE_DATE_EPOCH=0
ARG TORCH=cpu
COPY --chown=0:0 images/python-serve/requirements.lock images/cuda.lock images/layout.py ./
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    ./install.sh requirements.lock "${TORCH}" && python3 layout.py packages /opt/venv --epoch "${SOURCE_DATE_EPOCH}"

# ---------------------------------------------------------------- what every image starts from
FROM ${BASE_IMAGE} AS runtime
# Before the first RUN: what runs as root here must leave no byte code behind.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/opt/tutelage:/opt/tutelage/src \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONHASHSEED=0 \
    OMP_WAIT_POLICY=PASSIVE \
    HOME=/tmp \
    TMPDIR=/tmp \
    LANG=C.UTF-8
COPY --chown=0:0 images/layout.py /tmp/layout.py
# No installer in what runs; the user has a name, since the JVM and getpass ask for one.
RUN python3 /tmp/layout.py base / && rm /tmp/layout.py \
    && echo 'tutelage:x:65532:65532:tutelage:/tmp:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'tutelage:x:65532:' >> /etc/group
COPY --from=code --chown=0:0 /opt/tutelage /opt/tutelage
# Recipes name files from here; nothing is written here.
WORKDIR /opt/tutelage

# ---------------------------------------------------------------- python
# Labels come last: when and of what an image was built changes with every build, and must not spoil the layers before it.
FROM runtime AS python
COPY --from=packages-python --chown=0:0 /opt/venv /opt/venv
COPY --chown=0:0 images/python/sbom.cdx.json /opt/tutelage/sbom.cdx.json
ARG CREATED
ARG REVISION
ARG SOURCE
ARG VERSION
LABEL org.opencontainers.image.title="tutelage/python" \
      org.opencontainers.image.description="Steps of Tutelage that need neither Spark nor torch" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}"
USER 65532:65532
ENTRYPOINT ["python3", "-m", "tutelage"]
CMD ["--help"]

# ---------------------------------------------------------------- python-spark
# The Spark operator starts driver and executors with the arguments `driver …` and `executor`: see entrypoint.sh.
FROM runtime AS python-spark
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Versions as the distribution has them today: a pinned one is gone with its next security update.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends openjdk-17-jre-headless tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/aux-cache /var/log/apt /var/log/dpkg.log \
       /var/log/alternatives.log \
    && python3 /opt/tutelage/images/layout.py rights / \
    && ln -s "$(dirname "$(dirname "$(readlink -f /usr/bin/java)")")" /opt/java
ENV JAVA_HOME=/opt/java \
    SPARK_HOME=/opt/spark \
    PYSPARK_PYTHON=/opt/venv/bin/python3 \
    PYSPARK_DRIVER_PYTHON=/opt/venv/bin/python3
COPY --from=packages-python-spark --chown=0:0 /opt/venv /opt/venv
COPY --from=code --chown=0:0 --chmod=0555 /opt/tutelage/images/python-spark/entrypoint.sh /opt/entrypoint.sh
COPY --chown=0:0 images/python-spark/sbom.cdx.json /opt/tutelage/sbom.cdx.json
RUN python3 /opt/tutelage/images/layout.py spark /opt/spark
ARG CREATED
ARG REVISION
ARG SOURCE
ARG VERSION
LABEL org.opencontainers.image.title="tutelage/python-spark" \
      org.opencontainers.image.description="Steps of Tutelage that run on Spark: driver, executors and launcher" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}"
USER 65532:65532
ENTRYPOINT ["/opt/entrypoint.sh"]
CMD ["python3", "-m", "tutelage", "--help"]

# ---------------------------------------------------------------- python-torch
FROM runtime AS python-torch
COPY --from=packages-python-torch --chown=0:0 /opt/venv /opt/venv
COPY --chown=0:0 images/python-torch/sbom.cdx.json /opt/tutelage/sbom.cdx.json
ARG CREATED
ARG REVISION
ARG SOURCE
ARG VERSION
LABEL org.opencontainers.image.title="tutelage/python-torch" \
      org.opencontainers.image.description="Steps of Tutelage that load or train a model" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}"
USER 65532:65532
ENTRYPOINT ["python3", "-m", "tutelage"]
CMD ["--help"]

# ---------------------------------------------------------------- python-serve
FROM runtime AS python-serve
COPY --from=packages-python-serve --chown=0:0 /opt/venv /opt/venv
COPY --chown=0:0 images/python-serve/sbom.cdx.json /opt/tutelage/sbom.cdx.json
ARG CREATED
ARG REVISION
ARG SOURCE
ARG VERSION
LABEL org.opencontainers.image.title="tutelage/python-serve" \
      org.opencontainers.image.description="Tutelage's model server, and the step that deploys it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}"
USER 65532:65532
ENTRYPOINT ["python3", "-m", "tutelage"]
CMD ["--help"]
