package upstream_test

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A chain answers from the first registry that has the content.
func ExampleChain() {
	scope := new(exampleScope)
	defer scope.end()
	broken, sound := upstreamtest.New(scope), upstreamtest.New(scope)
	broken.Fault(upstreamtest.Any, upstreamtest.Status(500, "out of order"))
	layer := sound.AddBlob("team/app", []byte("a layer"))

	first := upstream.NewClient(upstream.Options{URL: broken.URL})
	defer first.Close()
	second := upstream.NewClient(upstream.Options{URL: sound.URL})
	defer second.Close()
	chain := upstream.NewChain(upstream.ChainOptions{}, first, second)

	blob, err := chain.Blob(context.Background(), "team/app", layer, 0, -1)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer blob.Close()
	content, err := io.ReadAll(blob)
	fmt.Println(string(content), err)
	fmt.Println("from the second registry:", blob.Upstream() == sound.Host)

	_, err = chain.StatBlob(context.Background(), "team/app", digest.FromString("absent"))
	fmt.Println("class of the error:", upstream.ClassOf(err))
	// Output:
	// a layer <nil>
	// from the second registry: true
	// class of the error: unavailable
}

// exampleScope stands for the test that a registry for tests wants.
type exampleScope struct {
	testing.TB
	cleanups []func()
}

func (s *exampleScope) Helper() {}

func (s *exampleScope) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

func (s *exampleScope) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func (s *exampleScope) end() {
	for _, f := range s.cleanups {
		f()
	}
}
