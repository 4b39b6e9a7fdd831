package storagetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

// Memory is a driver that keeps everything in memory. Only its spools are
// files, in the test's own directory.
type Memory struct {
	spools  *spool.Dir
	records memoryRecords

	calls
	mu       sync.Mutex
	contents map[digest.Digest]stored
}

type stored struct {
	content []byte
	used    time.Time
}

var (
	_ storage.Driver  = (*Memory)(nil)
	_ storage.Toucher = (*Memory)(nil)
)

// NewMemory returns an empty store without a limit.
func NewMemory(t testing.TB) *Memory { return NewMemoryWithin(t, nil) }

// NewMemoryWithin returns an empty store whose spools take part in a quota.
func NewMemoryWithin(t testing.TB, quota spool.Quota) *Memory { return NewMemoryIn(t.TempDir(), quota) }

// NewMemoryIn returns an empty store whose spools are files in a directory.
func NewMemoryIn(dir string, quota spool.Quota) *Memory {
	m := &Memory{spools: spool.NewDir(dir, 0, quota), contents: make(map[digest.Digest]stored)}
	m.records.documents = make(map[string][]byte)
	return m
}

// Records returns the records of the store.
func (m *Memory) Records() storage.Records { return &m.records }

// Spools returns the directory of spools for the store.
func (m *Memory) Spools() *spool.Dir { return m.spools }

// Close does nothing: the memory goes with the test.
func (m *Memory) Close() error { return nil }

// FailOpen makes every Open return err from now on; nil ends that.
func (m *Memory) FailOpen(err error) { m.fail("Open", err) }

// FailDelete makes every Delete return err from now on; nil ends that.
func (m *Memory) FailDelete(err error) { m.fail("Delete", err) }

// FailCommit makes every Commit return err from now on; nil ends that.
func (m *Memory) FailCommit(err error) { m.fail("Commit", err) }

// FailGet makes every Get of a record return err from now on; nil ends that.
func (m *Memory) FailGet(err error) { m.records.fail("Get", err) }

// FailPut makes every Put of a record return err from now on; nil ends that.
func (m *Memory) FailPut(err error) { m.records.fail("Put", err) }

// Calls returns how often a method of the store or of its records was called,
// such as "Open" or "Put", whether it failed or not. Deletes are counted
// together.
func (m *Memory) Calls(method string) int {
	return m.count(method) + m.records.count(method)
}

func (m *Memory) Stat(_ context.Context, dgst digest.Digest) (storage.Info, error) {
	s, err := m.get("Stat", dgst)
	return storage.Info{Digest: dgst, Size: int64(len(s.content))}, err
}

func (m *Memory) Open(_ context.Context, dgst digest.Digest) (*storage.Object, error) {
	s, err := m.get("Open", dgst)
	if err != nil {
		return nil, err
	}
	return &storage.Object{
		Info:    storage.Info{Digest: dgst, Size: int64(len(s.content))},
		Content: &reader{Reader: bytes.NewReader(s.content)},
	}, nil
}

func (m *Memory) get(method string, dgst digest.Digest) (stored, error) {
	if err := cmp.Or(m.call(method), storage.ValidateDigest(dgst)); err != nil {
		return stored{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.contents[dgst]
	if !ok {
		return stored{}, fmt.Errorf("%w: %s", storage.ErrNotExist, dgst)
	}
	return s, nil
}

func (m *Memory) Commit(ctx context.Context, dgst digest.Digest, s *spool.Spool) error {
	if err := cmp.Or(m.call("Commit"), storage.ValidateDigest(dgst)); err != nil {
		return err
	}
	r, err := s.NewReader(ctx)
	if err != nil {
		return err
	}
	content := make([]byte, s.Written()) // at once, and no more: the race detector makes a growing one slow
	_, err = io.ReadFull(r, content)
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.contents[dgst]; !ok {
		m.contents[dgst] = stored{content: content, used: time.Now()}
	}
	return nil
}

func (m *Memory) Delete(_ context.Context, dgst digest.Digest) error {
	if _, err := m.get("Delete", dgst); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.contents[dgst]; !ok {
		return fmt.Errorf("%w: %s", storage.ErrNotExist, dgst)
	}
	delete(m.contents, dgst)
	return nil
}

// Touch records when a blob was last used, for All to tell. It returns
// storage.ErrNotExist when there is none.
func (m *Memory) Touch(_ context.Context, dgst digest.Digest, used time.Time) error {
	if _, err := m.get("Touch", dgst); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.contents[dgst]
	if !ok {
		return fmt.Errorf("%w: %s", storage.ErrNotExist, dgst)
	}
	s.used = used
	m.contents[dgst] = s
	return nil
}

func (m *Memory) All(ctx context.Context) iter.Seq2[storage.Entry, error] {
	return func(yield func(storage.Entry, error) bool) {
		err := m.call("All")
		m.mu.Lock()
		contents := maps.Clone(m.contents)
		m.mu.Unlock()
		for dgst, s := range contents {
			if err := cmp.Or(err, context.Cause(ctx)); err != nil {
				yield(storage.Entry{}, err)
				return
			}
			info := storage.Info{Digest: dgst, Size: int64(len(s.content))}
			if !yield(storage.Entry{Info: info, Used: s.used}, nil) {
				return
			}
		}
	}
}

// reader refuses to be used after its Close, as a file does.
type reader struct {
	*bytes.Reader
	closed bool
}

var errClosed = errors.New("storagetest: closed")

func (r *reader) Read(p []byte) (int, error) {
	if r.closed {
		return 0, errClosed
	}
	return r.Reader.Read(p)
}

func (r *reader) Close() error {
	if r.closed {
		return errClosed
	}
	r.closed = true
	return nil
}

// calls counts calls by method, and fails those that a test has scripted to fail.
type calls struct {
	mu     sync.Mutex
	counts map[string]int
	faults map[string]error
}

func (c *calls) call(method string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = make(map[string]int)
	}
	c.counts[method]++
	return c.faults[method]
}

func (c *calls) count(method string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[method]
}

func (c *calls) fail(method string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.faults == nil {
		c.faults = make(map[string]error)
	}
	c.faults[method] = err
}

type memoryRecords struct {
	calls
	mu        sync.Mutex
	documents map[string][]byte
}

func (r *memoryRecords) Get(_ context.Context, key string) ([]byte, error) {
	if err := cmp.Or(r.call("Get"), storage.ValidateKey(key)); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	document, ok := r.documents[key]
	if !ok {
		return nil, fmt.Errorf("%w: record %q", storage.ErrNotExist, key)
	}
	return bytes.Clone(document), nil
}

func (r *memoryRecords) Put(_ context.Context, key string, document []byte) error {
	if err := cmp.Or(r.call("Put"), storage.ValidateKey(key)); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.documents[key] = bytes.Clone(document)
	return nil
}

func (r *memoryRecords) Delete(_ context.Context, key string) error {
	if err := cmp.Or(r.call("Delete"), storage.ValidateKey(key)); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.documents[key]; !ok {
		return fmt.Errorf("%w: record %q", storage.ErrNotExist, key)
	}
	delete(r.documents, key)
	return nil
}

func (r *memoryRecords) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		err := r.call("List")
		if prefix != "" {
			err = cmp.Or(err, storage.ValidateKey(prefix))
			prefix += "/"
		}
		r.mu.Lock()
		keys := slices.Sorted(maps.Keys(r.documents))
		r.mu.Unlock()
		if err != nil {
			yield("", err)
			return
		}
		for _, key := range keys {
			if !strings.HasPrefix(key, prefix) {
				continue
			}
			if err := context.Cause(ctx); err != nil {
				yield("", err)
				return
			}
			if !yield(key, nil) {
				return
			}
		}
	}
}
