package storage_test

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"

	"github.com/weirhq/weir/storage"
)

func TestHealthLogsEachTroubleOnce(t *testing.T) {
	log := new(bytes.Buffer)
	h := storage.NewHealth(slog.New(slog.NewTextHandler(log, nil)), "content")
	full, broken := errors.New("disk full"), errors.New("disk broken")
	count := func(text string) int { return bytes.Count(log.Bytes(), []byte(text)) }

	h.Succeeded()
	if log.Len() != 0 {
		t.Errorf("nothing has happened, yet the log says %s", log)
	}
	for range 3 {
		h.Failed(full)
	}
	h.Failed(broken)
	if got := count("cannot store content"); got != 1 {
		t.Errorf("one trouble is logged %d times", got)
	}
	if h.Err() != broken {
		t.Errorf("the last failure is %v", h.Err())
	}
	h.Succeeded()
	h.Succeeded()
	if got := count("content can be stored again"); got != 1 || h.Err() != nil {
		t.Errorf("the end is logged %d times, and Err is %v", got, h.Err())
	}
	h.Failed(full)
	if got := count("cannot store content"); got != 2 {
		t.Errorf("the second trouble: %d lines in all, want 2", got)
	}
}
