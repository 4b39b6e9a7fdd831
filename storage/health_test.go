package storage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage"
)

func TestHealthLogsEachTroubleOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(testutil.LogBuffer)
		h := storage.NewHealth(slog.New(slog.NewTextHandler(log, nil)), "content")
		full, broken := errors.New("disk full"), errors.New("disk broken")
		expect := func(when string, begins, ends int) {
			t.Helper()
			synctest.Wait()
			b, e := log.Count("cannot store content"), log.Count("content can be stored again")
			if b != begins || e != ends {
				t.Errorf("%s: the log has %d begins and %d ends, want %d and %d", when, b, e, begins, ends)
			}
		}
		h.Succeeded()
		if log.String() != "" {
			t.Errorf("nothing has happened, yet the log says %s", log)
		}
		for range 3 {
			h.Failed(full)
		}
		h.Failed(broken)
		if h.Err() != broken {
			t.Errorf("the last failure is %v", h.Err())
		}
		expect("a trouble", 1, 0)
		// A nearly full disk takes small content and refuses large content.
		for range 100 {
			h.Succeeded()
			if h.Err() != nil {
				t.Errorf("after a success: %v", h.Err())
			}
			time.Sleep(3 * time.Second)
			h.Failed(full)
			time.Sleep(100 * time.Millisecond)
		}
		expect("it flaps", 1, 0)
		h.Succeeded()
		h.Succeeded()
		expect("it has just ended", 1, 0)
		time.Sleep(time.Minute)
		expect("it has ended", 1, 1)
		time.Sleep(time.Hour)
		h.Failed(full)
		expect("the second trouble", 2, 1)
	})
}

// A name, a digest or a document that cannot be stored as it is says nothing about the
// store.
func TestHealthIgnoresForeignInput(t *testing.T) {
	for name, err := range map[string]error{
		"key": storage.ValidateKey("a/../b"), "long segment": storage.ValidateKey(strings.Repeat("x", 256)),
		"sha384": storage.ValidateDigest(digest.SHA384.FromString("x")), "sha512/256": storage.ValidateDigest("sha512/256:" + digest.Digest(strings.Repeat("0", 64))),
		"short digest": storage.ValidateDigest("sha256:00"), "no digest": storage.ValidateDigest("latest"),
		"large record": storage.ErrTooLarge, "odd record": storage.ErrInvalidRecord, "client left": context.Canceled,
	} {
		log := new(bytes.Buffer)
		h := storage.NewHealth(slog.New(slog.NewTextHandler(log, nil)), "content")
		for range 3 {
			h.Failed(fmt.Errorf("storing: %w", err))
		}
		if h.Err() != nil || bytes.Count(log.Bytes(), []byte("\n")) != 1 {
			t.Errorf("%s: %v counts as the store's failure (%v): %s", name, err, h.Err(), log)
		}
		full := errors.New("disk full")
		h.Failed(full)
		h.Failed(fmt.Errorf("storing: %w", err))
		if h.Err() != full {
			t.Errorf("%s: hides the store's failure", name)
		}
	}
}

// stuckHandler is a log that accepts a record only when the test allows it.
type stuckHandler struct {
	slog.Handler
	begun, end chan struct{}
}

func (stuckHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h stuckHandler) Handle(context.Context, slog.Record) error {
	close(h.begun)
	<-h.end
	return nil
}

func TestSlowLogHoldsUpNoDownload(t *testing.T) {
	log := stuckHandler{slog.DiscardHandler, make(chan struct{}), make(chan struct{})}
	health := storage.NewHealth(slog.New(log), "content")
	full := errors.New("no space left")
	go health.Failed(full)
	<-log.begun
	asked := make(chan error, 1)
	go func() { asked <- health.Err() }()
	select {
	case err := <-asked:
		if err != full {
			t.Errorf("Err = %v, want %v", err, full)
		}
	case <-time.After(2 * time.Second):
		t.Error("Err waits for the log")
	}
	close(log.end)
}
