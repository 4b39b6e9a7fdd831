package app

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A stranger who causes a line again and again fills no disk, and hides no other line.
func TestLogFlood(t *testing.T) {
	for name, tc := range map[string]struct {
		log  func(logger *slog.Logger, n int)
		want int // of 1000 lines
	}{
		"one message":              {func(l *slog.Logger, n int) { l.Warn("broke off", "digest", n) }, floodLines},
		"errors too":               {func(l *slog.Logger, n int) { l.Error("failed", "repository", fmt.Sprint("app", n)) }, floodLines},
		"two messages":             {func(l *slog.Logger, n int) { l.Warn([]string{"broke off", "failed"}[n%2]) }, 2 * floodLines},
		"two upstreams":            {func(l *slog.Logger, n int) { l.Warn("broke off", "upstream", fmt.Sprint("host", n%2)) }, 2 * floodLines},
		"two upstreams of loggers": {func(l *slog.Logger, n int) { l.With("upstream", fmt.Sprint("host", n%2)).Info("is back") }, 2 * floodLines},
		"requests":                 {func(l *slog.Logger, n int) { l.Info("request", "path", n) }, 1000},
		"for debugging":            {func(l *slog.Logger, _ int) { l.Debug("details") }, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, format := range []string{"json", "text"} {
					var b bytes.Buffer
					logger := newLogger(&b, format, slog.LevelDebug)
					for n := range 1000 {
						tc.log(logger, n)
					}
					if got := strings.Count(b.String(), "\n"); got != tc.want {
						t.Errorf("%s: %d lines, want %d", format, got, tc.want)
					}
					b.Reset()
					time.Sleep(floodWindow)
					tc.log(logger, 0)
					if got := strings.Contains(b.String(), "left_out"); got != (tc.want < 1000) || strings.Count(b.String(), "\n") != 1 {
						t.Errorf("%s: a minute later: %s", format, b.String())
					}
				}
			})
		})
	}
}

// Messages without number take bounded memory, and bounded lines.
func TestLogFloodOfMessages(t *testing.T) {
	f := &flood{seen: make(map[floodKey]*floodCount)}
	now := time.Now()
	written := 0
	for n := range 10 * floodMessages {
		if ok, _ := f.admit(floodKey{message: fmt.Sprint(n)}, now); ok {
			written++
		}
	}
	if len(f.seen) > floodMessages+1 || written > floodMessages+floodLines {
		t.Errorf("%d messages are remembered, and %d lines were written", len(f.seen), written)
	}
	if ok, _ := f.admit(floodKey{message: "a minute later"}, now.Add(floodWindow)); !ok || len(f.seen) > 2 {
		t.Errorf("a minute later: written %v, %d messages are remembered", ok, len(f.seen))
	}
}
