package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/config"
)

// errEmptied and errNoRepositories refuse a configuration that is more likely to be
// half-written than meant. It would answer every pull with "not found".
var (
	errEmptied        = errors.New("it is empty, and was not before. Write it again, preferably by renaming a complete file over it. Restart weir if it is meant to be empty")
	errNoRepositories = errors.New("there is no [repository] block any more. Write the files again, preferably by renaming complete files over them. Restart weir to use the built-in repositories")
	errCut            = errors.New("its last line has lost its line feed, so the file may be truncated. Write it again, preferably by renaming a complete file over it. If it is complete, end it with a line feed")
)

// contents are the texts of files, without those that cannot be read.
type contents map[string]string

func readFiles(files []string) contents {
	texts := make(contents)
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil {
			texts[file] = string(text)
		}
	}
	return texts
}

// reloader puts a changed configuration in force while the mirror runs. It watches
// the directories of all files that the configuration was read from: editors
// rename a new file over the old one, and Kubernetes swaps a symbolic link next to
// it. A configuration that cannot be used changes nothing.
type reloader struct {
	apply   func(*config.Config) error // puts a validated configuration in force, or changes nothing
	source  config.Source
	started *config.Config // of the start, which still holds for parts that need a restart
	level   *slog.LevelVar
	logger  *slog.Logger
	watcher *fsnotify.Watcher
	hangups chan os.Signal
	asks    chan chan<- error // for a reload at once; the answer is why the files are not in force
	ended   sync.WaitGroup
	cancel  context.CancelFunc

	seen contents // when a configuration was last tried
	// Of the last usable configuration: its files, their texts, and the keys of its
	// repository blocks.
	files   []string
	editDir string // where pages write blocks; "": nowhere
	texts   contents
	keys    []string
	err     error // why the files that were last tried are not in force

	removing   atomic.Pointer[string] // the key of the block that a page removes at the moment
	failed     atomic.Bool            // the configuration on disk is not the one in force
	successful prometheus.Gauge
	lastTime   prometheus.Gauge
	reloads    *prometheus.CounterVec // result
}

// startReloader watches the files that cfg was read from until it is closed. It
// reads the same source again, and applies the result.
func startReloader(apply func(*config.Config) error, source config.Source, cfg *config.Config, level *slog.LevelVar, metrics prometheus.Registerer, logger *slog.Logger) (*reloader, error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("cannot watch the configuration files: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &reloader{
		apply: apply, source: source, started: cfg, level: level, logger: logger, watcher: watcher, cancel: cancel,
		hangups: make(chan os.Signal, 1), asks: make(chan chan<- error),
		successful: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_config_last_reload_successful", Help: "Whether the configuration on disk is in force: 1, or 0 if it cannot be used.",
		}),
		lastTime: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_config_last_reload_success_timestamp_seconds", Help: "When a configuration last took effect.",
		}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_config_reloads_total", Help: "Changes of the configuration while the mirror ran, by result: success or failure.",
		}, []string{"result"}),
	}
	metrics.MustRegister(r.successful, r.lastTime, r.reloads)
	r.reloads.WithLabelValues("success")
	r.reloads.WithLabelValues("failure")
	r.succeeded(cfg)
	signal.Notify(r.hangups, syscall.SIGHUP)
	r.ended.Go(func() { r.run(ctx) })
	return r, nil
}

func (r *reloader) close() {
	signal.Stop(r.hangups)
	r.cancel()
	r.watcher.Close()
	r.ended.Wait()
}

func (r *reloader) run(ctx context.Context) {
	var files settling
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.hangups:
			if !r.reload() {
				files.changed()
			}
		case <-files.settled:
			files = settling{}
			// Most events are of other files in the directories.
			if !maps.Equal(r.read(), r.seen) && !r.reload() {
				files.changed()
			}
		case answer := <-r.asks:
			answer <- r.reloadNow()
		case _, ok := <-r.watcher.Events:
			if ok {
				files.changed()
			}
		case err := <-r.watcher.Errors:
			if err != nil && !errors.Is(err, fsnotify.ErrClosed) {
				r.logger.Warn("watching the configuration files. Send SIGHUP after a change if it is not noticed", "error", err)
			}
		}
	}
}

// errChanging says that the files do not keep still.
var errChanging = errors.New("the configuration files are changing. Look at the configuration again in a few seconds")

// reloadNow reloads the configuration if the files have changed. It returns why they are not in force.
func (r *reloader) reloadNow() error {
	for range 10 {
		if maps.Equal(r.read(), r.seen) || r.reload() {
			return r.err
		}
	}
	return errChanging
}

// now is reloadNow for other goroutines.
func (r *reloader) now(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case r.asks <- answer:
	case <-ctx.Done():
		return errChanging
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return errChanging
	}
}

// read reads the files of the last usable configuration, and those that have come into edit_dir.
func (r *reloader) read() contents {
	written, err := config.WrittenFiles(r.editDir)
	if err != nil {
		written = nil // loading reports it
	}
	return readFiles(slices.Concat(r.files, written))
}

// reload loads, validates and applies the configuration. After a failure the last
// usable one stays in force. It reports false, and does nothing, if the files change
// while they are read.
func (r *reloader) reload() (done bool) {
	before := r.read()
	cfg, err := r.source.Load()
	// Read twice: a file that is being written may be valid at each moment.
	if !maps.Equal(r.read(), before) {
		return false
	}
	r.seen = before
	if err == nil {
		err = r.complete(cfg)
	}
	if err == nil {
		err = cfg.Validate()
	}
	if err == nil {
		err = r.apply(cfg)
	}
	if r.err = err; err != nil {
		r.successful.Set(0)
		r.failed.Store(true)
		r.reloads.WithLabelValues("failure").Inc()
		r.logger.Error("the changed configuration cannot be used. The last one stays in force", "error", err)
		return true
	}
	// The level changes only with a configuration that is in force.
	r.level.Set(logLevel(cfg.Log.Level))
	gone := slices.DeleteFunc(r.gone(cfg), func(key string) bool { return key == r.removed() })
	r.succeeded(cfg)
	r.reloads.WithLabelValues("success").Inc()
	r.logger.Info("the changed configuration is in force", "repositories", len(cfg.Namespaces))
	// A file that was cut between two blocks is as good as one from which they were removed.
	if len(gone) > 0 {
		r.logger.Warn("repository blocks are gone, and their images are no longer served. If this is not intended, a file may have been truncated. Write it again", "keys", gone)
	}
	for _, warning := range cfg.Warnings() {
		r.logger.Warn(warning)
	}
	if keys := config.RestartRequired(r.started, cfg); len(keys) > 0 {
		r.logger.Warn("some changes take effect only at the next restart", "keys", keys)
	}
	return true
}

// complete returns an error if a configuration looks half-written: a file that was not
// empty is empty, all repository blocks are gone, or some are and the end of their file with
// them.
func (r *reloader) complete(cfg *config.Config) error {
	for _, file := range cfg.Files() {
		// The last user of a file may have lost the access.
		if filled(r.texts[file]) && !filled(r.seen[file]) && file != cfg.Auth.Htpasswd {
			return fmt.Errorf("%s: %w", file, errEmptied)
		}
	}
	if len(r.keys) > 0 && !cfg.HasRepositories() {
		return errNoRepositories
	}
	gone := r.gone(cfg)
	for _, file := range cfg.Documents() {
		before, now := r.texts[file], r.seen[file]
		// Files that never end with a line feed, such as those of some ConfigMaps, do not
		// show that they were cut.
		if !strings.HasSuffix(before, "\n") || strings.HasSuffix(now, "\n") || before == now+"\n" {
			continue
		}
		switch {
		case len(gone) > 0:
			return fmt.Errorf("%s: it lacks the repository blocks %s, and %w", file, strings.Join(gone, ", "), errCut)
		case strings.HasPrefix(before, now): // settings of the last block are gone
			return fmt.Errorf("%s: %w", file, errCut)
		}
	}
	return nil
}

// removed returns the key of the block that a page removes at the moment; "" if there is none.
func (r *reloader) removed() string {
	if key := r.removing.Load(); key != nil {
		return *key
	}
	return ""
}

// gone returns the keys of the repository blocks in force that a configuration lacks.
func (r *reloader) gone(cfg *config.Config) []string {
	return slices.DeleteFunc(slices.Clone(r.keys), func(key string) bool {
		return slices.ContainsFunc(cfg.Namespaces, func(n config.Namespace) bool { return n.Key == key })
	})
}

// filled reports whether a file has more than blank lines and comments.
func filled(text string) bool {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return true
		}
	}
	return false
}

func (r *reloader) succeeded(cfg *config.Config) {
	r.successful.Set(1)
	r.failed.Store(false)
	r.lastTime.SetToCurrentTime()
	r.files, r.editDir, r.keys = cfg.Files(), cfg.UI.EditDir, nil
	if cfg.HasRepositories() { // else the built-in ones are in force
		for _, n := range cfg.Namespaces {
			r.keys = append(r.keys, n.Key)
		}
	}
	r.texts = r.read()
	// A change since they were loaded is still to come.
	for file, text := range r.seen {
		if _, ok := r.texts[file]; ok {
			r.texts[file] = text
		}
	}
	r.seen = r.texts
	r.watch()
}

// watch watches the directories of the files and of the targets of their symbolic
// links, and no others.
func (r *reloader) watch() {
	wanted := make(map[string]bool)
	if r.editDir != "" {
		wanted[filepath.Clean(r.editDir)] = true
	}
	for _, file := range r.files {
		wanted[filepath.Dir(file)] = true
		// The link and its target may be in different directories, and a change of
		// either counts.
		if target, err := filepath.EvalSymlinks(file); err == nil {
			wanted[filepath.Dir(target)] = true
		}
	}
	for dir := range wanted {
		if err := r.watcher.Add(dir); err != nil {
			r.logger.Warn("cannot watch a directory for changes of the configuration. Send SIGHUP after a change", "directory", dir, "error", err)
		}
	}
	for _, dir := range r.watcher.WatchList() {
		if !wanted[dir] {
			_ = r.watcher.Remove(dir) // it may be gone already
		}
	}
}
