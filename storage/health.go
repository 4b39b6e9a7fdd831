package storage

import (
	"log/slog"
	"sync"
)

// Health tells whether a store accepts new content. It logs the first failure of
// a row and its end: a full disk fails every pull's writes, and the log must stay
// readable. A nil *Health does nothing.
type Health struct {
	logger *slog.Logger
	kind   string

	mu  sync.Mutex
	err error
}

// NewHealth returns a Health for one kind of data, such as "content", as the log
// calls it.
func NewHealth(logger *slog.Logger, kind string) *Health { return &Health{logger: logger, kind: kind} }

// Failed notes a failed attempt to store data.
func (h *Health) Failed(err error, attrs ...any) {
	if h == nil {
		return
	}
	// Downloads share the mutex, so the log, which can be slow, is written without it.
	if h.set(err) == nil {
		h.logger.Error("cannot store "+h.kind+". Clients are served straight from the upstream",
			append(attrs, "error", err)...)
	}
}

// Succeeded notes an attempt that succeeded.
func (h *Health) Succeeded() {
	if h == nil {
		return
	}
	if h.set(nil) != nil {
		h.logger.Info(h.kind + " can be stored again")
	}
}

// set replaces the last failure, and returns the one before.
func (h *Health) set(err error) (before error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before, h.err = h.err, err
	return before
}

// Err returns the last failure while none of the later attempts has succeeded.
func (h *Health) Err() error {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}
