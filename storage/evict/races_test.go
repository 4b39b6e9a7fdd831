package evict_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/storagetest"
)

// interrupted is a store of which others make use just before a call returns.
type interrupted struct {
	*storagetest.Memory
	after map[string]func() // by the name of the method; called once
}

func (s interrupted) interrupt(method string) {
	if call := s.after[method]; call != nil {
		delete(s.after, method)
		call()
	}
}

func (s interrupted) Stat(ctx context.Context, dgst digest.Digest) (storage.Info, error) {
	defer s.interrupt("Stat")
	return s.Memory.Stat(ctx, dgst)
}

func (s interrupted) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
	defer s.interrupt("Open")
	return s.Memory.Open(ctx, dgst)
}

func (s interrupted) Delete(ctx context.Context, dgst digest.Digest) error {
	defer s.interrupt("Delete")
	return s.Memory.Delete(ctx, dgst)
}

// store stores a blob, and closes its spool.
func store(t *testing.T, to storage.Store, memory interrupted, content []byte) error {
	spool, err := memory.Spools().Create("", int64(len(content)))
	if err != nil {
		return err
	}
	_, err = spool.Write(content)
	return errors.Join(err, spool.Complete(), to.Commit(t.Context(), digest.FromBytes(content), spool), spool.Close())
}

// Content that is deleted while others use it is not counted any more, and content that
// is stored is counted, whatever comes in between.
func TestDeletionsBesideUses(t *testing.T) {
	content := bytes.Repeat([]byte("content"), 100)
	dgst := digest.FromBytes(content)
	for name, c := range map[string]struct {
		known bool // the index knows the content before
		use   func(t *testing.T, s *evict.Store, memory interrupted)
		left  bool // the content is stored in the end
	}{
		"a reader leaves during the deletion": {known: true, use: func(t *testing.T, s *evict.Store, memory interrupted) {
			object, err := s.Open(t.Context(), dgst)
			must(t, err)
			memory.after["Delete"] = func() { must(t, object.Content.Close()) }
			must(t, s.Delete(t.Context(), dgst))
		}},
		"a reader stays": {known: true, use: func(t *testing.T, s *evict.Store, _ interrupted) {
			object, err := s.Open(t.Context(), dgst)
			must(t, err)
			must(t, s.Delete(t.Context(), dgst))
			if got, err := io.ReadAll(object.Content); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			must(t, object.Content.Close())
		}},
		"a commit waits for the deletion": {known: true, left: true, use: func(t *testing.T, s *evict.Store, memory interrupted) {
			committed := make(chan error)
			memory.after["Delete"] = func() {
				go func() { committed <- store(t, s, memory, content) }()
			}
			must(t, s.Delete(t.Context(), dgst))
			must(t, <-committed)
		}},
		"a commit waits while a reader has the deleted content": {known: true, left: true, use: func(t *testing.T, s *evict.Store, memory interrupted) {
			object, err := s.Open(t.Context(), dgst)
			must(t, err)
			committed := make(chan error)
			memory.after["Delete"] = func() {
				go func() { committed <- store(t, s, memory, content) }()
			}
			must(t, s.Delete(t.Context(), dgst))
			must(t, <-committed)
			must(t, object.Content.Close())
		}},
		"Stat saw it before": {use: func(t *testing.T, s *evict.Store, memory interrupted) {
			memory.after["Stat"] = func() { must(t, s.Delete(t.Context(), dgst)) }
			if _, err := s.Stat(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
				t.Errorf("Stat: %v", err)
			}
		}},
		"Open saw it before": {use: func(t *testing.T, s *evict.Store, memory interrupted) {
			memory.after["Open"] = func() { must(t, s.Delete(t.Context(), dgst)) }
			if _, err := s.Open(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
				t.Errorf("Open: %v", err)
			}
		}},
		"Stat of another process's content beside the deletion of another": {left: true, use: func(t *testing.T, s *evict.Store, memory interrupted) {
			memory.after["Stat"] = func() { _ = s.Delete(t.Context(), digest.FromString("another")) }
			if _, err := s.Stat(t.Context(), dgst); err != nil {
				t.Errorf("Stat: %v", err)
			}
		}},
		"Open of another process's content beside the deletion of another": {left: true, use: func(t *testing.T, s *evict.Store, memory interrupted) {
			memory.after["Open"] = func() { _ = s.Delete(t.Context(), digest.FromString("another")) }
			object, err := s.Open(t.Context(), dgst)
			must(t, err)
			must(t, object.Content.Close())
		}},
	} {
		t.Run(name, func(t *testing.T) {
			quota := evict.NewQuota(1 << 20)
			memory := interrupted{storagetest.NewMemoryWithin(t, quota), make(map[string]func())}
			// The content is too large to be looked into for references, which would open it.
			s := evict.New(memory, quota, evict.Options{MaxManifest: int64(len(content)) - 1})
			t.Cleanup(func() { must(t, s.Close()) })
			<-s.Loaded()
			if c.known {
				must(t, store(t, s, memory, content))
			} else { // as another process does
				must(t, store(t, memory.Memory, memory, content))
			}
			c.use(t, s, memory)
			var want evict.Usage
			if c.left {
				want = evict.Usage{Stored: int64(len(content)), Objects: 1}
			}
			if got := s.Usage(); got != want {
				t.Errorf("%+v is counted, want %+v", got, want)
			}
			if _, err := memory.Memory.Stat(t.Context(), dgst); (err == nil) != c.left {
				t.Errorf("the store has it: %v", err)
			}
		})
	}
}
