package download_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage/download"
)

// dripping is a stream of some bytes a second.
type dripping struct {
	ctx   context.Context
	speed int
}

func (d dripping) Read(p []byte) (int, error) {
	select {
	case <-time.After(time.Second):
		return min(len(p), d.speed), nil
	case <-d.ctx.Done():
		return 0, context.Cause(d.ctx)
	}
}

func (d dripping) Close() error { return nil }

// A download that is too slow is given up if no client waits for it, and gives its
// place away if one does.
func TestSlowDownloads(t *testing.T) {
	for name, c := range map[string]struct {
		speed  int // bytes per second
		client bool
		others bool // downloads of the same block wait for the place
		ends   bool
		yields bool
	}{
		"no byte":                     {speed: 0, ends: true},
		"slow":                        {speed: 1000, ends: true},
		"just fast enough":            {speed: 1100},
		"slow, with a client":         {speed: 100, client: true},
		"slow, with a client, wanted": {speed: 100, client: true, others: true, yields: true},
		"fast, with a client, wanted": {speed: 2000, client: true, others: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var opened int
				s := newSetup(t, func(o *download.Options) { o.MinSpeed, o.MaxFetches = 1024, 1 })
				defer s.Close()
				source := download.Source{Repository: ours, Open: func(ctx context.Context, _, _ int64) (*download.Stream, error) {
					opened++
					return &download.Stream{ReadCloser: dripping{ctx, c.speed}, Size: -1, Origin: "slow.example"}, nil
				}}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := make(chan error, 1)
				start := func(content string) *download.Reader {
					return s.reader(t, ctx, digest.FromString(content), source)
				}
				r := start("wanted")
				if c.client {
					go func() { _, err := readAll(r); ended <- err }()
				} else {
					go func() { ended <- r.Complete() }()
				}
				synctest.Wait()
				if c.others {
					other := start("another one")
					defer other.Close()
				}
				time.Sleep(5 * time.Minute)
				synctest.Wait()
				if yielded := opened > 1; yielded != c.yields {
					t.Errorf("the source was opened %d times", opened)
				}
				select {
				case err := <-ended:
					slow, ok := errors.AsType[*download.TooSlowError](err)
					if !c.ends || !ok || slow.Speed > int64(c.speed) || slow.Upstream != "slow.example" || slow.Namespace != ours.Namespace {
						t.Errorf("ended by %v", err)
					}
				default:
					if c.ends {
						t.Error("it goes on for five minutes")
					}
				}
				cancel()
				if c.client {
					<-ended
					r.Close()
				}
			})
		})
	}
}
