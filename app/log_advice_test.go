package app

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/s3"
	"github.com/weirhq/weir/upstream"
)

// The log tells causes and remedies, in either format.
func TestLogAdvises(t *testing.T) {
	for reason, remedy := range map[evict.Reason]string{
		evict.InUse: "blob_store.fs.max_size", evict.TooSlow: "blob_store.fs.max_size", evict.CannotDelete: "blob_store.fs.root_dir",
		evict.OverShare: "blob_store.fs.min_free",
	} {
		err := fmt.Errorf("storing: %w", &evict.FullError{Reason: reason, Err: errors.New("EROFS")})
		for _, format := range []string{"text", "json"} {
			var log bytes.Buffer
			newLogger(&log, format, slog.LevelInfo).Error("cannot store content", "error", err)
			if text := log.String(); !strings.Contains(text, "not enough free space") || !strings.Contains(text, remedy) {
				t.Errorf("reason %d: %s", reason, text)
			}
		}
	}
	offline := &namespace.OfflineError{Content: "tag v1", Namespace: "ghcr.io", Upstream: "ghcr.io"}
	want := `tag v1: not cached, and the namespace is offline. Remove offline = true from repository."ghcr.io" to fetch it from ghcr.io.`
	if got := advised(offline); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	crowded := &upstream.Error{Host: "ghcr.io", Class: upstream.ClassUnavailable, Err: &upstream.CrowdedError{Host: "ghcr.io", Limit: 3, Wait: time.Second}}
	if got := advised(crowded); !strings.HasSuffix(got, "the limit of 3 connections to ghcr.io was reached for 1s. Raise max_connections of this upstream if it can take more.") {
		t.Errorf("got %q", got)
	}
	// A server's own words may end with a full stop.
	if got := advised(fmt.Errorf("%w: It is too late.", &s3.Error{Operation: "get", Reason: s3.WrongClock})); !strings.HasSuffix(got, "It is too late. Synchronize the clock of this machine.") {
		t.Errorf("got %q", got)
	}
	if got := advised(errors.New("odd")); got != "odd" {
		t.Errorf("an error without a remedy is %q", got)
	}
}
