package download

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"
)

// Prefetch downloads a blob that no client has asked for yet, and returns when the
// download has ended. It reports whether it began one: not if the content is stored, or is
// being downloaded for others. The download has a place only as long as no other one waits
// for one, until a client joins it; then it is one like all others. It ends with the context
// unless a client holds it. It is given up at once if wanted, which is asked when [Group.Forget] would
// find the download, says no.
func (g *Group) Prefetch(ctx context.Context, dgst digest.Digest, src Source, wanted func() bool) (began bool, err error) {
	if g.Stored(ctx, dgst, src) {
		return false, nil
	}
	src.spare = true
	d, joined, err := g.joinOrStart(ctx, dgst, src)
	if err != nil {
		return false, err
	}
	if joined {
		// Its clients may have left meanwhile.
		d.leave(g.opts.OnUnattended)
		return false, nil
	}
	if !wanted() {
		d.leave((*Download).Abandon)
		return false, nil
	}
	found, err := d.awaitSearch(ctx)
	if err == nil {
		err = d.await(ctx)
	}
	d.leave((*Download).Abandon)
	return !found, err
}

// awaitSpare waits for a place that no other download waits for. It returns nil if the
// download is, or becomes, one that a client has asked for.
func (d *Download) awaitSpare() (*lease, error) {
	if !d.spare.Load() {
		return nil, nil
	}
	poll := time.NewTicker(yieldPoll)
	defer poll.Stop()
	for {
		claimed := d.claimed.Wait()
		if !d.spare.Load() {
			return nil, nil
		}
		if l := d.group.slots.acquireSpare(d.Namespace(), &d.spare); l != nil {
			return l, nil
		}
		select {
		case <-claimed:
		case <-poll.C:
		case <-d.ctx.Done():
			return nil, context.Cause(d.ctx)
		}
	}
}
