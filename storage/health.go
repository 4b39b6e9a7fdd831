package storage

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/episode"
)

// calm is how long storing has to work before the log reports a failure as over. A nearly
// full disk refuses a layer and takes a manifest in the same pull.
const calm = 10 * time.Second

// Health reports whether a store accepts new content. It logs the start and the end of a
// failure, not each failed write: a full disk fails every pull's writes, and the log must stay readable. A nil
// *Health does nothing.
type Health struct {
	logger *slog.Logger
	kind   string

	trouble *episode.Episode

	mu      sync.Mutex
	err     error
	refused time.Time // when data was last logged that cannot be stored as it is
}

// refusalPause is how long further data that cannot be stored as it is goes
// unlogged: an upstream can send much of it.
const refusalPause = time.Minute

// NewHealth returns a Health for one kind of data, such as "content", as the log
// calls it.
func NewHealth(logger *slog.Logger, kind string) *Health {
	return &Health{logger: logger, kind: kind, trouble: episode.New(calm, func() {
		logger.Info(kind + " can be stored again")
	})}
}

// Failed notes a failed attempt to store data. A failure that is the fault of the
// data says nothing about the store: it is logged once a minute at most.
func (h *Health) Failed(err error, attrs ...any) {
	if h == nil {
		return
	}
	if causedByInput(err) {
		if h.mayRefuse(time.Now()) {
			h.logger.Warn("cannot store "+h.kind+" as an upstream sent it. Clients still get it", append(attrs, "error", err)...)
		}
		return
	}
	h.set(err)
	// Downloads share the mutex, so the log, which can be slow, is written without it.
	if h.trouble.Bad() {
		h.logger.Error("cannot store "+h.kind+". Clients are served straight from the upstream",
			append(attrs, "error", err)...)
	}
}

// mayRefuse reports whether data that cannot be stored as it is may be logged.
func (h *Health) mayRefuse(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now.Sub(h.refused) < refusalPause {
		return false
	}
	h.refused = now
	return true
}

// inputErrors are the failures that a client or an upstream causes with a name, a
// digest or a document, or by leaving.
var inputErrors = []error{
	ErrInvalidKey, ErrInvalidRecord, ErrTooLarge,
	digest.ErrDigestInvalidFormat, digest.ErrDigestInvalidLength, digest.ErrDigestUnsupported,
	context.Canceled,
}

// causedByInput reports whether a failure to store data is the fault of the data.
// Errors of other packages say so by a method CausedByInput.
func causedByInput(err error) bool {
	if slices.ContainsFunc(inputErrors, func(cause error) bool { return errors.Is(err, cause) }) {
		return true
	}
	var telling interface{ CausedByInput() bool }
	return errors.As(err, &telling) && telling.CausedByInput()
}

// Succeeded notes an attempt that succeeded.
func (h *Health) Succeeded() {
	if h == nil {
		return
	}
	h.set(nil)
	h.trouble.Good()
}

// set replaces the last failure.
func (h *Health) set(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
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
