package storagetest

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

func testTouch(t *testing.T, d storage.Driver) {
	content := []byte("content")
	dgst := Commit(t, d, d.Spools(), content)
	used := time.Date(2001, time.February, 3, 4, 5, 6, 0, time.UTC)
	toucher, ok := storage.As[storage.Toucher](d)
	if !ok {
		t.Skip("the driver does not record uses")
	}
	if err := toucher.Touch(t.Context(), dgst, used); err != nil {
		t.Fatal(err)
	}
	if got := collect(t, d)[dgst]; !got.Used.Equal(used) || got.Size != int64(len(content)) {
		t.Errorf("All lists %+v, want a use at %v", got, used)
	}
	if got := Read(t, d, dgst); !bytes.Equal(got, content) {
		t.Errorf("read %q", got)
	}
	if err := toucher.Touch(t.Context(), digest.FromString("missing"), used); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Touch of what is not there: %v, want ErrNotExist", err)
	}
	if err := toucher.Touch(t.Context(), "sha256:../../x", used); err == nil || errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Touch of an invalid digest: %v, want an error about the digest", err)
	}
	if n := len(collect(t, d)); n != 1 {
		t.Errorf("All lists %d entries, want 1", n)
	}
}
