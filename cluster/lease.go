package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// HaveLife is how long the others know that a replica has a blob. Later it may
	// have evicted it, and the images of a deployment are pulled within minutes.
	HaveLife = time.Hour
	// giveBackTime bounds the end of a turn. The lease ends by itself later.
	giveBackTime = 5 * time.Second
	// uploadTime is how long a lease outlives its download at most, for the upload: all attempts
	// take about as long.
	uploadTime = 10 * time.Minute
	// maxLingering bounds the leases that do so, since each is renewed. Others rely on the key
	// with the place of the content.
	maxLingering = 64
)

// leaseKey is the name of the lease of a blob. The block is part of it: clients of one
// block must not wait for the upstream of another one.
func leaseKey(prefix string, want Want) string {
	return prefix + ":lease:" + want.Digest.String() + ":" + short(want.Block)
}

// haveKey is the name of the key with the place of a blob.
func haveKey(prefix string, dgst digest.Digest) string { return prefix + ":have:" + dgst.String() }

// short returns a name that is as good as a text of any length and characters.
func short(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// lease is the turn of this replica to download a blob.
type lease struct {
	cluster    *Cluster
	want       Want
	key, value string
	end        context.CancelFunc // of the renewals
}

// take takes a free lease, or that with the value failed, whose holder failed. It reports
// false if another replica has it now, or has announced since the look at have that it has the
// content.
func (c *Cluster) take(ctx context.Context, want Want, failed string, have named) (bool, error) {
	l := &lease{cluster: c, want: want}
	taken := false
	err := c.gate.call(ctx, func(ctx context.Context, b board, prefix string) (err error) {
		l.key = leaseKey(prefix, want)
		l.value = c.newNote(l.key)
		taken, err = b.Replace(ctx, l.key, failed, l.value, c.opts.Lease)
		// Its life may have ended meanwhile.
		if err == nil && !taken && failed != "" {
			taken, err = b.Replace(ctx, l.key, "", l.value, c.opts.Lease)
		}
		if err != nil || !taken {
			return err
		}
		// The lease was free at the look, or its holder failed. It may have been taken and
		// given back since.
		entries, err := b.Read(ctx, have.key)
		if err == nil && entries[0].value != "" && entries[0].value != have.value {
			taken = false
			err = b.Remove(ctx, l.key, l.value)
		}
		return err
	})
	if err != nil || !taken {
		return false, err
	}
	renewing, end := context.WithCancel(c.ctx)
	l.end = end
	c.mu.Lock()
	c.held[l.key] = l
	c.mu.Unlock()
	c.running.Go(func() { l.renew(renewing) })
	want.OnEnd(l.giveBack)
	if failed == "" {
		c.opts.Metrics.lease(acquired)
	} else {
		c.opts.Metrics.lease(takenOver)
	}
	return true, nil
}

// holds reports whether a turn of this process has a lease.
func (c *Cluster) holds(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held[key] != nil
}

// renew keeps a lease until the context ends, or another replica has it.
func (l *lease) renew(ctx context.Context) {
	tick := time.NewTicker(l.cluster.opts.Lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		kept := false
		err := l.cluster.gate.call(ctx, func(ctx context.Context, b board, _ string) (err error) {
			kept, err = b.Replace(ctx, l.key, l.value, l.value, l.cluster.opts.Lease)
			// Redis may have lost it, or its life has ended while Redis was unavailable.
			if err == nil && !kept {
				kept, err = b.Replace(ctx, l.key, "", l.value, l.cluster.opts.Lease)
			}
			return err
		})
		// While Redis is unavailable the next renewal tries again.
		if err == nil && !kept {
			l.cluster.opts.Metrics.lease(lost)
			l.cluster.forget(l)
			return
		}
	}
}

func (c *Cluster) forget(l *lease) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[l.key] == l {
		delete(c.held, l.key)
	}
}

// giveBack ends the turn. If the content is stored, the others read it from here. With a bucket
// the lease stays until it is uploaded: Redis may evict the key that tells where it is, and the
// next replica would ask the upstream. It does not wait for Redis.
func (l *lease) giveBack(stored bool) {
	c := l.cluster
	if !stored || c.opts.Uploaded == nil || !c.lingering.TryAcquire(1) {
		l.release(stored)
		return
	}
	c.releases.Go(func() {
		defer c.lingering.Release(1)
		telling, cancel := context.WithTimeout(c.ctx, giveBackTime)
		defer cancel()
		_ = c.Has(telling, l.want.Digest) // the lease says it too
		uploading, cancel := context.WithTimeout(c.open, uploadTime)
		defer cancel()
		_ = c.opts.Uploaded(uploading, l.want.Digest) // the lease ends in any case
		l.release(false)
	})
}

// release gives the lease back, and tells before that, if the content is stored, that it is
// here.
func (l *lease) release(stored bool) {
	l.end()
	l.cluster.forget(l)
	l.cluster.inBackground(func(ctx context.Context) {
		// First, so that no replica finds neither of them.
		if stored {
			_ = l.cluster.Has(ctx, l.want.Digest) // else another replica downloads it
		}
		_ = l.cluster.gate.call(ctx, func(ctx context.Context, b board, _ string) error {
			return b.Remove(ctx, l.key, l.value)
		})
	})
}

// Has tells the others that this replica has a blob. It returns an error if Redis is unavailable.
func (c *Cluster) Has(ctx context.Context, dgst digest.Digest) error {
	return c.gate.call(ctx, func(ctx context.Context, b board, prefix string) error {
		key := haveKey(prefix, dgst)
		return b.Write(ctx, key, c.newNote(key), HaveLife)
	})
}

// untell removes the word of a replica that does not have the content.
func (c *Cluster) untell(ctx context.Context, dgst digest.Digest, value string) {
	_ = c.gate.call(ctx, func(ctx context.Context, b board, prefix string) error {
		return b.Remove(ctx, haveKey(prefix, dgst), value)
	})
}

// inBackground runs a short work that no caller but Close waits for.
func (c *Cluster) inBackground(work func(ctx context.Context)) {
	c.releases.Go(func() {
		ctx, cancel := context.WithTimeout(c.ctx, giveBackTime)
		defer cancel()
		work(ctx)
	})
}
