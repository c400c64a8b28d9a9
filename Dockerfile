# Two images of one wheel: `docker build --target api .` and `docker build --target operator .`
# The final stages hold a virtual environment and no build tool; they run as a numeric user on a read-only root.
FROM docker.io/library/python:3.13-slim AS wheel
WORKDIR /source
COPY requirements/build.txt /requirements.txt
RUN pip install --no-cache-dir --quiet --require-hashes --requirement /requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY operator operator
RUN python -m hatchling build --target wheel --directory /dist

FROM docker.io/library/python:3.13-slim AS api-environment
RUN python -m venv --without-pip /opt/tidegate
COPY requirements/api.txt /requirements.txt
RUN pip --python /opt/tidegate/bin/python install --no-cache-dir --quiet --require-hashes --requirement /requirements.txt
COPY --from=wheel /dist/*.whl /dist/
RUN pip --python /opt/tidegate/bin/python install --no-cache-dir --quiet --no-deps /dist/*.whl

FROM docker.io/library/python:3.13-slim AS operator-environment
RUN python -m venv --without-pip /opt/tidegate
COPY requirements/operator.txt /requirements.txt
RUN pip --python /opt/tidegate/bin/python install --no-cache-dir --quiet --require-hashes --requirement /requirements.txt
COPY --from=wheel /dist/*.whl /dist/
RUN pip --python /opt/tidegate/bin/python install --no-cache-dir --quiet --no-deps /dist/*.whl

FROM docker.io/library/python:3.13-slim AS base
RUN pip uninstall --yes --quiet pip
ENV PATH=/opt/tidegate/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /

FROM base AS operator
COPY --from=operator-environment /opt/tidegate /opt/tidegate
EXPOSE 8080
ENTRYPOINT ["kopf", "run", "--module", "tidegate_operator.handlers"]

FROM base AS api
COPY --from=api-environment /opt/tidegate /opt/tidegate
EXPOSE 8000
ENTRYPOINT ["gunicorn", "--config", "python:tidegate.server.gunicorn_config", "tidegate.asgi:app"]
CMD ["--bind", "0.0.0.0:8000", "--workers", "2"]

# For `tilt up` alone: files that the process may replace, and a start that takes them up again.
FROM api AS api-dev
USER root
RUN chown -R 10001:10001 /opt/tidegate
USER 10001:10001

FROM operator AS operator-dev
USER root
RUN chown -R 10001:10001 /opt/tidegate
USER 10001:10001
ENTRYPOINT ["sh", "-c", "trap exit TERM; while true; do kopf run --module tidegate_operator.handlers \"$@\" & echo $! > /tmp/operator.pid; wait $!; done", "--"]
