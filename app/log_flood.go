package app

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// floodWindow and floodLines bound the lines of one message about one upstream: an
	// operator sees that it happens, and a client that causes it does not fill the disk.
	floodWindow = time.Minute
	floodLines  = 30
	// floodMessages bounds the memory for them. All others share one place.
	floodMessages = 1024
)

// floodHandler leaves out lines that come too often. The next line of the same message that
// is written has their number ("left_out"). Two kinds are written always: the line of
// each request, of which there is one for each, and those for debugging.
type floodHandler struct {
	slog.Handler
	flood    *flood
	upstream string // of the attributes of the logger
}

func newFloodHandler(h slog.Handler) slog.Handler {
	return floodHandler{Handler: h, flood: &flood{seen: make(map[floodKey]*floodCount)}}
}

func (h floodHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		h.upstream = upstreamOf(a, h.upstream)
	}
	h.Handler = h.Handler.WithAttrs(attrs)
	return h
}

func (h floodHandler) WithGroup(name string) slog.Handler {
	h.Handler = h.Handler.WithGroup(name)
	return h
}

func (h floodHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == requestMessage || r.Level < slog.LevelInfo {
		return h.Handler.Handle(ctx, r)
	}
	// The trouble of one upstream must not hide that of another one.
	upstream := h.upstream
	r.Attrs(func(a slog.Attr) bool {
		upstream = upstreamOf(a, upstream)
		return true
	})
	written, leftOut := h.flood.admit(floodKey{r.Message, upstream}, r.Time)
	if !written {
		return nil
	}
	if leftOut > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("left_out", leftOut))
	}
	return h.Handler.Handle(ctx, r)
}

func upstreamOf(a slog.Attr, otherwise string) string {
	if a.Key == "upstream" {
		return a.Value.String()
	}
	return otherwise
}

// flood counts the lines of each message.
type flood struct {
	mu   sync.Mutex
	seen map[floodKey]*floodCount
}

type floodKey struct{ message, upstream string }

type floodCount struct {
	since   time.Time // of the window
	lines   int       // in the window
	leftOut int       // since the last line that was written
}

// admit reports whether a line is to be written, and how many were left out before it.
func (f *flood) admit(key floodKey, now time.Time) (written bool, leftOut int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	count := f.count(key, now)
	if now.Sub(count.since) >= floodWindow {
		count.since, count.lines = now, 0
	}
	count.lines++
	if count.lines > floodLines {
		count.leftOut++
		return false, 0
	}
	leftOut, count.leftOut = count.leftOut, 0
	return true, leftOut
}

// count is called with mu held.
func (f *flood) count(key floodKey, now time.Time) *floodCount {
	if f.seen[key] == nil && len(f.seen) >= floodMessages {
		for old, count := range f.seen {
			if now.Sub(count.since) >= floodWindow && count.leftOut == 0 {
				delete(f.seen, old)
			}
		}
		if len(f.seen) >= floodMessages {
			key = floodKey{}
		}
	}
	if f.seen[key] == nil {
		f.seen[key] = &floodCount{since: now}
	}
	return f.seen[key]
}
