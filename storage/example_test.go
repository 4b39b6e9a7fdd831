package storage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
	"github.com/weirhq/weir/storage/storagetest"
)

// audit is a decorator: a Store in front of another one. It changes one method and
// leaves the others to the embedded Store. Unwrap keeps the capabilities of the
// driver within reach.
type audit struct{ storage.Store }

func (a audit) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
	object, err := a.Store.Open(ctx, dgst)
	fmt.Println("open", dgst[:14], err == nil)
	return object, err
}

func (a audit) Unwrap() storage.Store { return a.Store }

// A decorator adds one behaviour to a store. Content gets into it through a spool,
// which the driver makes and Commit publishes.
func ExampleStore() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	driver := storagetest.NewMemoryIn(dir, nil)
	store := audit{driver}

	ctx, content := context.Background(), "hello"
	dgst := digest.FromString(content)
	if _, err := store.Open(ctx, dgst); errors.Is(err, storage.ErrNotExist) {
		fmt.Println("missing")
	}
	if err := commit(ctx, store, driver.Spools(), dgst, content); err != nil {
		panic(err)
	}
	object, err := store.Open(ctx, dgst)
	if err != nil {
		panic(err)
	}
	defer object.Content.Close()
	text, _ := io.ReadAll(object.Content)
	fmt.Printf("%s, %d bytes\n", text, object.Size)

	_, ok := storage.As[storage.Toucher](store)
	fmt.Println("records uses:", ok)
	// Output:
	// open sha256:2cf24db false
	// missing
	// open sha256:2cf24db true
	// hello, 5 bytes
	// records uses: true
}

func commit(ctx context.Context, store storage.Store, spools *spool.Dir, dgst digest.Digest, content string) error {
	s, err := spools.Create("", int64(len(content)))
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := s.Write([]byte(content)); err != nil {
		return err
	}
	if err := s.Complete(); err != nil {
		return err
	}
	return store.Commit(ctx, dgst, s)
}
