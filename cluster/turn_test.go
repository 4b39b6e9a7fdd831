package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/cluster"
)

// The first replica that wants a blob has the turn. Others follow its download as it
// grows, and read it from its store once it has ended.
func TestTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one, two, three := b.start("one"), b.start("two"), b.start("three")
		dgst, bytes := body(300_000)
		one.turn(t, dgst, 0)
		download := newGrowing(len(bytes))
		one.contents.set(dgst, download)
		download.add(bytes[:100_000])

		stream := two.reads(t, dgst, 0, one)
		defer stream.Close()
		got := make([]byte, 100_000)
		if _, err := io.ReadFull(stream, got); err != nil || stream.Size != int64(len(bytes)) {
			t.Errorf("%d bytes in all, %v", stream.Size, err)
		}
		var readers sync.WaitGroup
		readers.Go(func() {
			if rest, err := io.ReadAll(stream); err != nil || len(rest) != 200_000 {
				t.Errorf("%d further bytes, %v", len(rest), err)
			}
		})
		late := three.reads(t, dgst, 60_000, one) // its own download broke off there
		readers.Go(func() { all(t, late, bytes[60_000:]) })
		// The lease is renewed as long as the download takes.
		for range 60 {
			time.Sleep(time.Minute / 60)
			download.add(bytes[len(download.have) : len(download.have)+2000])
		}
		download.add(bytes[len(download.have):])
		readers.Wait()

		download.stored = true
		one.end(true)
		synctest.Wait()
		if leases := b.redis.named(prefix + ":lease:"); len(leases) != 0 {
			t.Errorf("leases are left: %q", leases)
		}
		all(t, three.reads(t, dgst, 0, one), bytes)
		synctest.Wait() // a byte is counted when it has been sent
		one.counts(t, "acquired", 1)
		one.counts(t, "sent", 300_000+240_000+300_000)
		two.counts(t, "received", 300_000)
		three.counts(t, "followed", 2)
		// An hour later the others do not know it any more.
		time.Sleep(61 * time.Minute)
		three.turn(t, dgst, 0)
	})
}

// Blocks take turns apart: the upstream of one must not contain up the clients of another one.
func TestBlocksTakeTurnsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one, two := b.start("one"), b.start("two")
		dgst, _ := body(1000)
		one.turn(t, dgst, 0)
		want := two.want(dgst, 0)
		want.Block = "quay.io"
		if _, err := two.Open(t.Context(), want); !errors.Is(err, cluster.ErrTurn) {
			t.Errorf("the other block: %v", err)
		}
	})
}

// The end of a turn without content, such as a pause, lets the next replica go on.
func TestTurnIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one, two := b.start("one"), b.start("two")
		dgst, _ := body(1000)
		one.turn(t, dgst, 0)
		one.end(false)
		synctest.Wait()
		if keys := b.redis.named(prefix + ":"); len(keys) != 0 {
			t.Errorf("keys are left: %q", keys)
		}
		two.turn(t, dgst, 500)
		two.counts(t, "acquired", 1)
	})
}

// A holder fails in each way. A follower takes its turn at once, or when the lease has ended,
// and the end of the first holder leaves that lease alone.
func TestHolderFails(t *testing.T) {
	for name, tc := range map[string]struct {
		fail func(one *replica, download *growing)
		wait time.Duration // at most, until the follower's stream has ended
	}{
		"its download fails": {func(one *replica, download *growing) {
			one.contents.set(dgstOf(download), nil)
			download.fail(errors.New("the upstream has gone"))
		}, 0},
		"its process ends": {func(one *replica, _ *growing) { one.server.Close() }, 0},
		// The kernel still accepts connections.
		"it hangs": {func(one *replica, _ *growing) { one.UseBoard(nil, ""); one.contents.hang() }, lease + lease/3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				one, two, three := b.start("one"), b.start("two"), b.start("three")
				dgst, bytes := body(300_000)
				one.turn(t, dgst, 0)
				download := newGrowing(len(bytes))
				download.dgst = dgst
				one.contents.set(dgst, download)
				download.add(bytes[:100_000])
				stream := two.reads(t, dgst, 0, one)
				if _, err := io.ReadFull(stream, make([]byte, 100_000)); err != nil {
					t.Fatal(err)
				}
				begun := time.Now()
				tc.fail(one, download)
				if _, err := stream.Read(make([]byte, 1)); err == nil || err == io.EOF {
					t.Errorf("the stream of a holder that failed ends with %v", err)
				}
				stream.Close()
				if took := time.Since(begun); took > tc.wait {
					t.Errorf("noticed after %s, want %s", took, tc.wait)
				}
				begun = time.Now()
				two.turn(t, dgst, 100_000)
				if took := time.Since(begun); took > time.Second {
					t.Errorf("the turn came after %s", took)
				}
				second := newGrowing(len(bytes))
				second.add(bytes)
				two.contents.set(dgst, second)
				all(t, three.reads(t, dgst, 90_000, two), bytes[90_000:])
				one.UseBoard(b.redis, prefix)
				one.end(true)
				synctest.Wait()
				if leases := b.redis.named(prefix + ":lease:"); len(leases) != 1 {
					t.Errorf("%d leases are left, want that of the second holder", len(leases))
				}
			})
		})
	}
}

// A holder that is alive, and whose upstream is slow, keeps its followers for a while. Then
// one of them tries by itself.
func TestSlowUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one, two := b.start("one"), b.start("two")
		dgst, bytes := body(300_000)
		one.turn(t, dgst, 0)
		download := newGrowing(len(bytes))
		one.contents.set(dgst, download)
		download.add(bytes[:1000])
		stream := two.reads(t, dgst, 0, one)
		if _, err := io.ReadFull(stream, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		// A pause of the upstream, with its lease renewed.
		time.AfterFunc(2*lease, func() { download.add(bytes[1000:100_000]) })
		if _, err := io.ReadFull(stream, make([]byte, 99_000)); err != nil {
			t.Errorf("after a pause: %v", err)
		}
		begun := time.Now()
		if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, cluster.ErrSilent) {
			t.Errorf("a silent holder: %v", err)
		}
		stream.Close()
		if took := time.Since(begun); took < 3*lease-time.Second || took > 4*lease {
			t.Errorf("left after %s", took)
		}
		two.turn(t, dgst, 100_000)
		two.counts(t, "taken_over", 1)
	})
}

// A reader that does not read is no fault of the holder.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one, two := b.start("one"), b.start("two")
		dgst, bytes := body(300_000)
		one.turn(t, dgst, 0)
		download := newGrowing(len(bytes))
		one.contents.set(dgst, download)
		download.add(bytes)
		stream := two.reads(t, dgst, 0, one)
		time.Sleep(20 * time.Second)
		all(t, stream, bytes)
	})
}

// A replica that finds no lease, and takes one after another replica has downloaded the content
// in between, reads it from there.
func TestTurnBetweenLookAndTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one, two := b.start("one"), b.start("two")
		dgst, bytes := body(1000)
		b.redis.before = func() {
			one.turn(t, dgst, 0)
			download := newGrowing(len(bytes))
			download.stored = true
			one.contents.set(dgst, download)
			download.add(bytes)
			one.end(true)
			synctest.Wait()
		}
		all(t, two.reads(t, dgst, 0, one), bytes)
		if leases := b.redis.named(prefix + ":lease:"); len(leases) != 0 {
			t.Errorf("leases are left: %q", leases)
		}
		two.counts(t, "acquired", 0)
	})
}

// Redis loses a lease: its holder has it again with the next renewal, or, if another replica
// was faster, goes on without it.
func TestLostLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one, two := b.start("one"), b.start("two")
		dgst, _ := body(1000)
		one.turn(t, dgst, 0)
		b.redis.flush()
		time.Sleep(lease/3 + time.Second)
		if leases := b.redis.named(prefix + ":lease:"); len(leases) != 1 {
			t.Fatalf("leases %q", leases)
		}
		b.redis.flush()
		two.turn(t, dgst, 0)
		held := b.redis.get(cluster.LeaseKey(prefix, two.want(dgst, 0)))
		time.Sleep(lease)
		one.end(false)
		synctest.Wait()
		if now := b.redis.get(cluster.LeaseKey(prefix, two.want(dgst, 0))); now != held {
			t.Errorf("the lease is %q, want %q", now, held)
		}
		one.counts(t, "lost", 1)
	})
}

// The lease of an earlier process with the same address is taken over, and that of another
// download of this process is not.
func TestOwnLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one := b.start("one")
		dgst, _ := body(1000)
		key := cluster.LeaseKey(prefix, one.want(dgst, 0))
		if err := b.redis.Write(t.Context(), key, one.Note(key), lease); err != nil {
			t.Fatal(err)
		}
		one.turn(t, dgst, 0)
		one.counts(t, "taken_over", 1)
		if _, err := one.Open(t.Context(), one.want(dgst, 0)); !errors.Is(err, cluster.ErrAlone) {
			t.Errorf("a second download: %v", err)
		}
	})
}

// A Redis that hangs costs one download half a second. Until it is back, all go on alone, at
// once.
func TestRedisHangs(t *testing.T) {
	for name, fault := range map[string]error{"hangs": nil, "refuses": errors.New("connection refused")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				one := b.start("one")
				dgst, _ := body(1000)
				time.Sleep(time.Second)
				synctest.Wait()
				b.redis.set(fault, fault == nil)
				begun := time.Now()
				if _, err := one.Open(t.Context(), one.want(dgst, 0)); err == nil || errors.Is(err, cluster.ErrTurn) {
					t.Errorf("Open: %v", err)
				}
				if took := time.Since(begun); took > 500*time.Millisecond {
					t.Errorf("it took %s", took)
				}
				begun = time.Now()
				for range 100 {
					if _, err := one.Open(t.Context(), one.want(dgst, 0)); !errors.Is(err, cluster.ErrAway) {
						t.Errorf("Open: %v", err)
					}
				}
				if took := time.Since(begun); took != 0 {
					t.Errorf("a hundred took %s", took)
				}
				one.counts(t, "alone", 101)
				time.Sleep(time.Minute)
				b.redis.set(nil, false)
				time.Sleep(10 * time.Second)
				synctest.Wait()
				one.turn(t, dgst, 0)
				for _, text := range []string{"replicas do not coordinate until Redis is back", "replicas coordinate through Redis again"} {
					if err := logged(one.log, text); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// A blob that is recalled is read from a replica that has it, and never has a turn.
func TestRecall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one, two := b.start("one"), b.start("two")
		dgst, bytes := body(1000)
		recalled := cluster.Want{Digest: dgst, Block: "docker.io"}
		if _, err := two.Open(t.Context(), recalled); !errors.Is(err, cluster.ErrAlone) {
			t.Errorf("nothing is there: %v", err)
		}
		one.turn(t, dgst, 0)
		one.end(true)
		synctest.Wait()
		// It was evicted meanwhile: its word is removed, once.
		if _, err := two.Open(t.Context(), recalled); !errors.Is(err, cluster.ErrAlone) {
			t.Errorf("evicted: %v", err)
		}
		if keys := b.redis.named(prefix + ":have:"); len(keys) != 0 {
			t.Errorf("keys %q", keys)
		}
		one.turn(t, dgst, 0)
		g := newGrowing(len(bytes))
		g.stored = true
		g.add(bytes)
		one.contents.set(dgst, g)
		one.end(true)
		synctest.Wait()
		stream, err := two.Open(t.Context(), recalled)
		if err != nil {
			t.Fatal(err)
		}
		all(t, stream, bytes)
	})
}

// A blob that was not downloaded, such as a manifest, is read from the replica that tells of it.
func TestHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one, two := b.start("one"), b.start("two")
		dgst, bytes := body(1000)
		g := newGrowing(len(bytes))
		g.stored = true
		g.add(bytes)
		one.contents.set(dgst, g)
		if err := one.Has(t.Context(), dgst); err != nil {
			t.Fatal(err)
		}
		stream, err := two.Open(t.Context(), cluster.Want{Digest: dgst, Block: "docker.io"})
		if err != nil {
			t.Fatal(err)
		}
		all(t, stream, bytes)
		one.UseBoard(nil, prefix)
		if err := one.Has(t.Context(), dgst); err == nil {
			t.Error("without Redis the others know")
		}
	})
}

// With a bucket a lease outlives its download until the upload has ended: if Redis evicts the key
// that tells where the content is, it is not downloaded again.
func TestLeaseLastsUntilUpload(t *testing.T) {
	for name, end := range map[string]func(one *replica, uploaded chan struct{}){
		"it is uploaded":    func(_ *replica, uploaded chan struct{}) { close(uploaded) },
		"it takes too long": func(*replica, chan struct{}) { time.Sleep(11 * time.Minute) },
		"the replica ends":  func(one *replica, _ chan struct{}) { one.close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, uploaded := newBench(t), make(chan struct{})
				one := b.start("one", func(o *cluster.Options) {
					o.Uploaded = func(ctx context.Context, _ digest.Digest) error {
						select {
						case <-uploaded:
						case <-ctx.Done():
						}
						return ctx.Err()
					}
				})
				two, three := b.start("two"), b.start("three")
				dgst, bytes := body(300_000)
				one.turn(t, dgst, 0)
				stored := newGrowing(len(bytes))
				stored.add(bytes)
				stored.stored = true
				one.contents.set(dgst, stored)
				one.end(true)
				synctest.Wait()
				all(t, two.reads(t, dgst, 0, one), bytes)
				for range 3 {
					b.redis.flush() // whatever Redis loses, the lease is renewed
					time.Sleep(lease)
					all(t, three.reads(t, dgst, 0, one), bytes)
				}
				end(one, uploaded)
				synctest.Wait()
				if leases := b.redis.named(prefix + ":lease:"); len(leases) != 0 {
					t.Errorf("leases are left: %q", leases)
				}
			})
		})
	}
}

// Leases that wait for an upload are bounded. Beyond, a lease ends with its download.
func TestLeasesThatWaitForUploads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one := b.start("one", func(o *cluster.Options) {
			o.Uploaded = func(ctx context.Context, _ digest.Digest) error {
				<-ctx.Done()
				return ctx.Err()
			}
		})
		for n := range cluster.MaxLingering + 10 {
			one.turn(t, digest.FromString(fmt.Sprint(n)), 0)
			one.end(true)
		}
		synctest.Wait()
		if leases, haves := b.redis.named(prefix+":lease:"), b.redis.named(prefix+":have:"); len(leases) != cluster.MaxLingering || len(haves) != cluster.MaxLingering+10 {
			t.Errorf("%d leases and %d contents", len(leases), len(haves))
		}
	})
}
