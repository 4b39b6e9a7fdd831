package storage

import (
	"log/slog"
	"sync"
)

// Health is whether a store takes what it is given. It logs a failure once until
// it is over, and its end: a full disk fails every pull's writes, and the log
// should still be fit to read. A nil *Health says nothing.
type Health struct {
	log  *slog.Logger
	what string

	mu  sync.Mutex
	err error
}

// NewHealth returns a Health for what is stored, such as "content", in the words
// of the log.
func NewHealth(log *slog.Logger, what string) *Health { return &Health{log: log, what: what} }

// Failed notes that something could not be stored.
func (h *Health) Failed(err error, attrs ...any) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		h.log.Error("cannot store "+h.what+"; what is not stored is served straight from upstream",
			append(attrs, "error", err)...)
	}
	h.err = err
}

// Succeeded notes that something could be stored.
func (h *Health) Succeeded() {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		h.log.Info(h.what + " can be stored again")
	}
	h.err = nil
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
