# The commands in a container. It has not been built yet: it was written without a Docker engine.
#
#     docker build -t llmsched-gym .
#     docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" llmsched-gym policy=llmsched
#
# Results are in outputs/ of the current folder. To train as well:
#
#     docker build --build-arg 'EXTRAS=[train]' -t llmsched-gym-train .
#     docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" \
#         --entrypoint llmsched-train llmsched-gym-train agent=decima minutes=10
FROM python:3.11-slim

ARG EXTRAS="[commands]"
COPY pyproject.toml constraints.txt README.md LICENSE /tmp/source/
COPY llmsched_gym /tmp/source/llmsched_gym
COPY hydra_plugins /tmp/source/hydra_plugins
RUN pip install --no-cache-dir --constraint /tmp/source/constraints.txt "/tmp/source${EXTRAS}" \
    && rm -r /tmp/source

# Caches of any user: fitted beliefs, what numba has compiled, matplotlib's fonts.
ENV HOME=/tmp NUMBA_CACHE_DIR=/tmp/numba
WORKDIR /data
ENTRYPOINT ["llmsched-evaluate"]
