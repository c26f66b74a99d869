# Two images: `k2` has the command line and the HTTP API, `lab` JupyterLab and the notebooks too.
# Packages come from PyPI alone. The environments are made in stages of their own, so that neither
# image has pip or a build tool in its environment; what k2lib needs is a layer that its code does
# not renew.
FROM python:3.11-slim-bookworm AS base
RUN useradd --uid 1000 --home-dir /var/lib/k2 --create-home --shell /usr/sbin/nologin k2 \
    && install --directory --owner=k2 --group=k2 /srv/k2 /srv/notebooks
ENV K2_HOME=/srv/k2 \
    POLARS_ICEBERG_PLANNER=pyiceberg \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/k2

FROM base AS packages
WORKDIR /build
RUN python3 -m venv --without-pip /opt/k2
COPY pyproject.toml .
RUN python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > needed.txt \
    && python3 -m pip --python /opt/k2/bin/python install --no-cache-dir --requirement needed.txt

FROM packages AS code
COPY . .
RUN python3 -m pip --python /opt/k2/bin/python wheel --no-cache-dir --no-deps --wheel-dir dist . \
    && python3 -m pip --python /opt/k2/bin/python install --no-deps --root /code dist/*.whl

FROM base AS k2
COPY --from=packages /opt/k2 /opt/k2
COPY --from=code /code/opt/k2 /opt/k2
ENV PATH=/opt/k2/bin:$PATH
USER k2
CMD ["k2", "--help"]

FROM packages AS lab-packages
RUN python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['notebooks'], sep='\n')" > needed.txt \
    && python3 -m pip --python /opt/k2/bin/python install --no-cache-dir --requirement needed.txt

FROM base AS lab
COPY --from=lab-packages /opt/k2 /opt/k2
COPY --from=code /code/opt/k2 /opt/k2
COPY --chown=k2:k2 notebooks /srv/notebooks
ENV PATH=/opt/k2/bin:$PATH
USER k2
EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser", "--notebook-dir=/srv/notebooks"]
