package storagetest_test

import (
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/storagetest"
)

func TestMemory(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Driver { return storagetest.NewMemory(t) })
}

func TestMemoryFaults(t *testing.T) {
	m := storagetest.NewMemory(t)
	fault := errors.New("scripted")
	content := []byte("content")
	commit := func() error {
		return m.Commit(t.Context(), digest.FromBytes(content), storagetest.NewSpool(t, m.Spools(), content))
	}
	put := func() error { return m.Records().Put(t.Context(), "key", content) }
	open := func() error { _, err := m.Open(t.Context(), digest.FromBytes(content)); return err }
	get := func() error { _, err := m.Records().Get(t.Context(), "key"); return err }
	for _, step := range []struct {
		method string
		fail   func(error)
		do     func() error
	}{{"Commit", m.FailCommit, commit}, {"Put", m.FailPut, put}, {"Open", m.FailOpen, open}, {"Get", m.FailGet, get}} {
		step.fail(fault)
		if err := step.do(); !errors.Is(err, fault) {
			t.Errorf("%s: %v, want the scripted fault", step.method, err)
		}
		step.fail(nil)
		if err := step.do(); err != nil {
			t.Errorf("%s after the fault: %v", step.method, err)
		}
		if n := m.Calls(step.method); n != 2 {
			t.Errorf("%d calls of %s, want 2", n, step.method)
		}
	}
}
