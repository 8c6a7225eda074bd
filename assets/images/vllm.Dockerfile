# The vLLM worker: Busbar laid on the stock vLLM image.
#
#   busbar image push REGISTRY/busbar:TAG
#   docker build -f assets/images/vllm.Dockerfile --build-arg BUSBAR=REGISTRY/busbar:TAG -t REGISTRY/busbar-vllm:TAG .
#
# The same without a container engine, with the base's layers copied from registry to registry:
#
#   busbar image push REGISTRY/busbar-vllm:TAG --base vllm/vllm-openai:v0.32.0
#
# Never built or run by Busbar's tests: the base has many gigabytes and its engine needs a GPU. What the tests hold is the
# same laying of layers on another base, and the worker against a vLLM from PyPI on CPUs (`make test-vllm`).
ARG VLLM=vllm/vllm-openai:v0.32.0
ARG BUSBAR=localhost/busbar:0.1.0

FROM ${BUSBAR} AS busbar

FROM ${VLLM}
# Loader and libraries are in /usr/lib/busbar, so the base's own C library is neither used nor changed.
COPY --from=busbar /usr/bin/busbar /usr/bin/busbar
COPY --from=busbar /usr/lib/busbar /usr/lib/busbar
# `python3 -m dynamo.vllm` of a manifest reaches us; every other line of Python goes to the Python behind us in PATH.
RUN mkdir -p /usr/lib/busbar/bin \
 && ln -s /usr/bin/busbar /usr/lib/busbar/bin/python3 \
 && ln -s /usr/bin/busbar /usr/lib/busbar/bin/python \
 && mkdir -p /workspace /home/busbar && chown 1000:1000 /workspace /home/busbar
# USER is for libraries that ask for a name: the base knows no user 1000.
ENV PATH=/usr/lib/busbar/bin:${PATH} HOME=/home/busbar USER=busbar
USER 1000:1000
WORKDIR /workspace
ENTRYPOINT ["/usr/bin/busbar"]
CMD []
