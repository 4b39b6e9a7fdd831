# Built by make image, which makes dist/weir first. The binary is static and
# brings its own CA certificates, so there is nothing else to put in.
FROM scratch
COPY dist/weir /weir
COPY contrib/docker/config.toml /etc/weir/config.toml
# A directory that the user below may write to; scratch has no mkdir.
COPY --chown=65532:65532 contrib/docker/data /var/lib/weir
USER 65532:65532
VOLUME /var/lib/weir
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=6s --start-period=5s CMD ["/weir", "healthcheck"]
ENTRYPOINT ["/weir"]
CMD ["serve"]
