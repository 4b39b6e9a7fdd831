package keepwarm_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/weirhq/weir/namespace/jobs"
)

type number int

func (n number) String() string { return fmt.Sprint(int(n)) }
func (n number) Block() string  { return n.String() }

// fill submits jobs to a pool until it takes no more. They end with the pool.
func fill(t *testing.T, pool *jobs.Pool) {
	t.Helper()
	for n := range 1000 {
		if !pool.Submit(number(n), func(ctx context.Context) error { <-ctx.Done(); return nil }) {
			return
		}
	}
	t.Fatal("the pool has no bound")
}
