package soak

import (
	"context"
	"math/rand/v2"
	"time"
)

// balancer leads each request to one of the mirrors that answer, as a load
// balancer with health checks does.
type balancer struct{ mirrors []*mirror }

// pick returns a mirror that answers, or any one if none does.
func (b *balancer) pick() *mirror {
	order := rand.Perm(len(b.mirrors))
	for _, n := range order {
		if b.mirrors[n].isUp() {
			return b.mirrors[n]
		}
	}
	return b.mirrors[order[0]]
}

// awaitUp waits until a mirror answers.
func (b *balancer) awaitUp(ctx context.Context) {
	if len(b.mirrors) == 1 {
		b.mirrors[0].awaitUp(ctx)
		return
	}
	for ctx.Err() == nil && !b.pick().isUp() {
		pause(ctx, 20*time.Millisecond)
	}
}
