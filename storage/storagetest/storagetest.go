// Package storagetest holds storage drivers to one behaviour.
//
// [Run] is the conformance suite: each sentence of the comments of
// [storage.Store] and [storage.Records] is a test, which every driver passes.
// [Memory] is a driver for the tests of other packages. It passes the suite
// too, fails on request, and counts its calls.
package storagetest

import (
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

// Run runs the conformance suite. It calls open for each test, which returns an
// empty driver and arranges for its end with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) storage.Driver) {
	t.Run("Store", func(t *testing.T) {
		for name, test := range storeTests {
			t.Run(name, func(t *testing.T) { test(t, open(t)) })
		}
	})
	t.Run("Records", func(t *testing.T) {
		for name, test := range recordsTests {
			t.Run(name, func(t *testing.T) { test(t, open(t).Records()) })
		}
	})
}

// Decorate returns a driver whose content goes through front, a decorator of the
// driver's store. The suite then holds the decorator to the same behaviour.
func Decorate(driver storage.Driver, front storage.Store) storage.Driver {
	return decorated{Store: front, driver: driver}
}

type decorated struct {
	storage.Store
	driver storage.Driver
}

func (d decorated) Records() storage.Records { return d.driver.Records() }
func (d decorated) Spools() *spool.Dir       { return d.driver.Spools() }
func (d decorated) Close() error             { return d.driver.Close() }
func (d decorated) Unwrap() storage.Store    { return d.driver }

// NewSpool returns a complete spool with the given content, which is closed
// when the test ends.
func NewSpool(t testing.TB, spools *spool.Dir, content []byte) *spool.Spool {
	t.Helper()
	s, err := spools.Create("", int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing a spool: %v", err)
		}
	})
	if _, err := s.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := s.Complete(); err != nil {
		t.Fatal(err)
	}
	return s
}

// Commit stores a blob under its sha256 digest.
func Commit(t testing.TB, store storage.Store, spools *spool.Dir, content []byte) digest.Digest {
	t.Helper()
	dgst := digest.FromBytes(content)
	if err := store.Commit(t.Context(), dgst, NewSpool(t, spools, content)); err != nil {
		t.Fatalf("Commit of %d bytes: %v", len(content), err)
	}
	return dgst
}

// Read returns the whole content of a digest.
func Read(t testing.TB, store storage.Store, dgst digest.Digest) []byte {
	t.Helper()
	object, err := store.Open(t.Context(), dgst)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	content, err := io.ReadAll(object.Content)
	if err := errors.Join(err, object.Content.Close()); err != nil {
		t.Fatalf("reading %s: %v", dgst, err)
	}
	if object.Digest != dgst || object.Size != int64(len(content)) {
		t.Errorf("Open(%s) says %+v, has %d bytes", dgst, object.Info, len(content))
	}
	return content
}
