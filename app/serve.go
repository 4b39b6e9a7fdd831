package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/weirhq/weir/config"
)

const (
	// readHeaderTimeout ends connections that send no complete header. A client
	// sends its header in one piece; only an attack takes seconds.
	readHeaderTimeout = 10 * time.Second
	// idleTimeout ends connections between two requests. It is longer than the
	// pauses of a pull, and than the usual idle limit of a proxy before Weir.
	idleTimeout = 120 * time.Second
	// maxHeaderBytes bounds a header. Tokens of clients have some KiB.
	maxHeaderBytes = 64 << 10
)

// Run runs the mirror of a validated configuration until SIGINT, SIGTERM or the
// end of the context, and drains it. It reloads the configuration from its source when
// its files change. It prints where it listens on stdout, as a line of JSON if the log
// is JSON, and logs to stderr.
func Run(ctx context.Context, source config.Source, cfg *config.Config, stdout, stderr io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	level := new(slog.LevelVar)
	level.Set(logLevel(cfg.Log.Level))
	logger, lines := newBatchedLogger(stderr, cfg.Log.Format, level)
	defer lines.close()
	defer limitMemory(logger)()
	limitThreads(cfg.Global.MaxConcurrentRequests)
	for _, warning := range cfg.Warnings() {
		logger.Warn(warning)
	}
	m, err := build(cfg, logger)
	if err != nil {
		return err
	}
	defer m.close()
	// The parts work by now, so no client connects to a mirror that cannot serve.
	listener, err := net.Listen("tcp", cfg.Server.Address())
	if err != nil {
		return fmt.Errorf("cannot listen (server.bind_address, server.port): %w", err)
	}
	if err := m.entrance.start(listener.Addr()); err != nil {
		listener.Close()
		return err
	}
	reloads, err := startReloader(m.apply, source, cfg, level, m.gatherer, logger)
	if err != nil {
		listener.Close()
		return err
	}
	defer reloads.close()
	m.state.reloads.Store(reloads)

	stopAdmin, err := m.startAdmin(cfg.Server)
	if err != nil {
		listener.Close()
		return err
	}
	defer stopAdmin()
	server := m.newServer(m.handler)
	served := make(chan error, 1)
	go func() { served <- server.Serve(m.entrance.listener(newStallListener(listener, logger))) }()
	address := listener.Addr().String()
	url := m.entrance.scheme() + "://" + address
	logger.LogAttrs(ctx, slog.LevelInfo, "listening", startAttrs(address, cfg)...)
	forget := leaveAddress(cfg.BlobStore.FS.RootDir, m.entrance.scheme(), listener.Addr(), logger)
	defer forget()
	announce(stdout, url, logsJSON(stderr, cfg.Log.Format))
	notifySystemd(logger, daemon.SdNotifyReady+"\nSTATUS=listening on "+url)

	select {
	case err := <-served:
		return fmt.Errorf("serving %s: %w", address, err)
	case <-ctx.Done():
	}
	stop() // a second signal ends the program at once
	notifySystemd(logger, daemon.SdNotifyStopping)
	return m.drain(server, cfg.Global.ShutdownDrain)
}

// startAttrs describes the program, its configuration and its limits, which a reader of
// the log needs first.
func startAttrs(address string, cfg *config.Config) []slog.Attr {
	version, revision := Version()
	blocks, fallback := make([]string, len(cfg.Namespaces)), "none"
	for i, block := range cfg.Namespaces {
		blocks[i] = fmt.Sprintf("%s (%d)", block.Key, len(block.Upstreams))
		if block.Default {
			fallback = block.Key
		}
	}
	return []slog.Attr{
		slog.String("address", address),
		slog.String("version", version),
		slog.String("revision", revision),
		slog.String("go", runtime.Version()),
		slog.String("configuration", cfg.Sources()),
		slog.Any("overrides", cfg.Overrides()), // flags and variables
		slog.Any("repositories", blocks),       // with the number of their upstreams
		slog.String("default", fallback),
		slog.String("data", cfg.BlobStore.FS.RootDir),
		slog.String("max_size", cfg.BlobStore.FS.MaxSize.String()),
		slog.String("min_free", cfg.BlobStore.FS.MinFree.String()),
		slog.String("max_unused", cfg.BlobStore.FS.MaxUnused.String()),
		slog.Int("max_concurrent_fetches", cfg.Global.MaxConcurrentFetches),
		slog.Bool("redis", cfg.Cache.Redis != nil),
	}
}

// announce prints the address of the mirror for scripts and people. Containers put
// stdout and stderr into one stream, in which a parser of JSON meets no other text.
func announce(stdout io.Writer, url string, asJSON bool) {
	if asJSON {
		slog.New(slog.NewJSONHandler(stdout, nil)).Info("listening on "+url, "url", url)
		return
	}
	fmt.Fprintf(stdout, "weir: listening on %s\n", url)
}

// notifySystemd reports a state to the service manager if it has started this
// process and waits for that (sd_notify(3)).
func notifySystemd(logger *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		logger.Warn("cannot report to systemd, which will consider the start failed", "error", err)
	}
}

// newServer returns the server of a handler for HTTP/1.1, and for HTTP/2: without TLS if
// a client begins with it, else if the handshake agreed on it. A transfer has no time limit, since a slow client may take hours. A
// client that accepts no byte has one, if the server's listener is a [stallListener].
func (m *mirror) newServer(handler http.Handler) *http.Server {
	server := newServer(handler, m.logger)
	if m.entrance != nil {
		server.ConnContext = m.entrance.door.ConnContext
	}
	return server
}

func newServer(handler http.Handler, logger *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true) // over TLS; the handshake decides
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           endStalledStreams(limitBodies(handler)),
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),

		DisableGeneralOptionsHandler: true, // see limitBodies
	}
}

// drain stops accepting and lets requests, then lookups and downloads, end within a
// limit. Their last spans are sent within it too. Warming, prefetching and checks of tags
// end at once: the next start or the next pull continues them.
func (m *mirror) drain(server *http.Server, limit time.Duration) error {
	m.logger.Info("shutting down: waiting for running requests and downloads", "limit", limit)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	m.api.Close() // streams of events would go on
	m.warmings.Close()
	m.engine.warmer.Close()
	m.engine.ahead.Close()
	err := server.Shutdown(ctx)
	m.engine.pulls.Close(ctx)
	m.engine.traffic.Close(ctx)
	m.engine.checks.Close() // a tag whose check is overdue is checked by a later request
	if err == nil {
		// A lookup may run on although its clients have left. Its answer is worth
		// keeping for the next start. Lookups are short, so they come first: a
		// download may use up all of the time that is left.
		err = m.engine.cache.Drain(ctx)
	}
	if err == nil {
		err = m.engine.downloads.Drain(ctx)
	}
	if err == nil {
		// Other replicas may be behind the end of a download.
		err = m.fleet.drain(ctx)
	}
	if err == nil && m.storage.bucket.drain(ctx) != nil {
		m.logger.Warn("some content or records are not in the bucket yet. They are uploaded after the next start with the same root_dir")
	}
	// The requests that are left are cut: the service manager would kill the
	// process soon anyway, without a message.
	if errors.Is(err, context.DeadlineExceeded) {
		server.Close()
		return fmt.Errorf("requests or downloads were cut off: they did not end within %s (global.shutdown_drain_secs)", limit)
	}
	if err != nil {
		return err
	}
	m.tracing.close(ctx)
	m.logger.Info("all requests and downloads have ended")
	return nil
}
