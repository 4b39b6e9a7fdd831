package fleet

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

const (
	received = "weir_cluster_peer_bytes_total"
	leases   = "weir_cluster_lease_total"
)

// following is a download of the first replica that the others follow, up to the byte at
// which its upstream waits.
type following struct {
	*fleet
	gate  *upstreamtest.Gate
	layer digest.Digest
	path  string
	at    int64
	pulls []*harness.Pulling // of each replica
}

// followTries is how often a test tries to bring about that replicas follow one, and to see it
// without a starved machine: a replica that gets no processor for a second, or a Redis for half a
// second, works alone, which is right and not what a test is about. See starved.
const followTries = 5

// busyTime is how long a machine may be too busy. Attacks of other tests last four minutes.
const busyTime = 6 * time.Minute

// follow makes the first replica download a layer. Its upstream sends the first bytes of it
// and waits; the other replicas have got all of them when follow returns.
func follow(t *testing.T, f *fleet, layer []byte, at int64) *following {
	t.Helper()
	for begun, tries := time.Now(), 0; tries < followTries || time.Since(begun) < busyTime; tries++ {
		layer = append(layer[1:len(layer):len(layer)], layer[0]) // another one each time
		fo := begin(t, f, layer, at)
		if fo.joined(t) {
			return fo
		}
		fo.gate.Open()
		for _, pull := range fo.pulls {
			pull.Whole(t, "a replica that worked alone", fo.layer)
		}
	}
	t.Fatal("the replicas do not follow the first one")
	return nil
}

// begin starts the download of the first replica.
func begin(t *testing.T, f *fleet, layer []byte, at int64) *following {
	t.Helper()
	fo := &following{fleet: f, gate: upstreamtest.NewGate(), layer: digest.FromBytes(layer), at: at}
	f.upstream.AddBlob("org/app", layer)
	fo.path = "/v2/mirror/org/app/blobs/" + fo.layer.String()
	f.upstream.Fault(upstreamtest.Path(fo.layer.Encoded()), upstreamtest.StallAfter(at, fo.gate)).Times(1)
	fo.pulls = append(fo.pulls, f.replicas[0].Pull(t, fo.path))
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	harness.Must(t, fo.gate.Arrived(ctx, 1))
	return fo
}

// joined makes the other replicas follow, and reports whether they do.
func (fo *following) joined(t *testing.T) bool {
	t.Helper()
	all := true
	for _, w := range fo.replicas[1:] {
		before, independent := w.Metric(t, received, "direction", "received"), w.Metric(t, leases, "result", "alone")
		fo.pulls = append(fo.pulls, w.Pull(t, fo.path))
		harness.Eventually(t, "a replica follows the first one, or works alone", func() bool {
			return w.Metric(t, received, "direction", "received") >= before+float64(fo.at) || w.Metric(t, leases, "result", "alone") > independent
		})
		all = all && w.Metric(t, leases, "result", "alone") == independent
	}
	return all || !alone(t, fo.replicas[1:])
}

// limits are the words of the log for a time that was too short.
var limits = []string{"did not answer within a second", "deadline exceeded", "i/o timeout"}

// starved reports whether a replica of those that run worked alone, or could not read from
// another one, for want of time. It is for replicas of which all run and none hangs.
func starved(t *testing.T, replicas []*harness.Weir) bool {
	t.Helper()
	hungry := alone(t, replicas)
	for _, w := range replicas {
		if w.Log.Count(limits[0]) > 0 {
			t.Log("a replica did not answer another one in time")
			hungry = true
		}
	}
	return hungry
}

// alone reports whether a replica of those that run has worked alone for want of time. If
// one did so for any other reason, the test fails: to try again would hide it.
func alone(t *testing.T, replicas []*harness.Weir) bool {
	t.Helper()
	hungry := false
	for _, w := range replicas {
		if w.Log.Count("did not share a manifest in time") > 0 {
			t.Log("a manifest came late")
			hungry = true
			continue
		}
		if w.Metric(t, leases, "result", "alone") == 0 && w.Log.Count("replicas do not coordinate") == 0 {
			continue
		}
		if !slices.ContainsFunc(limits, func(limit string) bool { return w.Log.Count(limit) > 0 }) {
			t.Error("a replica worked alone, and not for want of time")
			return false
		}
		t.Log("a replica worked alone for want of time")
		hungry = true
	}
	return hungry
}

// unstarved runs a scenario until no replica has worked alone in it.
func unstarved(t *testing.T, scenario func() (starved bool)) {
	t.Helper()
	for begun, tries := time.Now(), 0; tries < followTries || time.Since(begun) < busyTime; tries++ {
		if !scenario() {
			return
		}
	}
	t.Error("a replica worked alone each time")
}

// othersWhole fails the test unless the clients of all replicas but the first get the layer.
func (fo *following) othersWhole(t *testing.T) {
	t.Helper()
	for n, pull := range fo.pulls[1:] {
		pull.Whole(t, fmt.Sprintf("replica %d", n+1), fo.layer)
	}
}

// The holder of a download dies. Its followers' clients notice nothing: one follower goes on
// at the byte that the holder had passed on last, and the others follow that one.
func TestHolderIsKilled(t *testing.T) {
	testutil.Long(t, "starts eighteen mirrors")
	const size = 4 * mib
	for name, store := range stores {
		for _, percent := range []int64{30, 60, 95} {
			t.Run(fmt.Sprintf("%s, at %d percent", name, percent), func(t *testing.T) {
				t.Parallel()
				unstarved(t, func() bool {
					fo := follow(t, startFleetOn(t, 3, store(t)), content(size, 1), size*percent/100)
					fo.replicas[0].Kill()
					fo.othersWhole(t)
					return fo.continuedOnce(t)
				})
			})
		}
	}
}

// continuedOnce fails the test unless one follower has gone on upstream, at the byte that the
// holder had passed on last.
func (fo *following) continuedOnce(t *testing.T) (hungry bool) {
	t.Helper()
	if alone(t, fo.replicas[1:]) {
		return true
	}
	got := fo.bodies(fo.layer)
	if want := fmt.Sprintf("bytes=%d- ", fo.at); len(got) != 2 || !strings.Contains(got[1], want) {
		t.Errorf("the upstream got %q, want a second request with %q", got, want)
	}
	return false
}

// The holder of a download hangs. Its lease ends, and a follower goes on. When the holder
// wakes up, its own client gets the rest from it.
func TestHolderHangs(t *testing.T) {
	testutil.Long(t, "waits for the end of a lease")
	const size = 4 * mib
	for name, store := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			unstarved(t, func() bool {
				fo := follow(t, startFleetOn(t, 3, store(t)), content(size, 2), size/2)
				holder := fo.replicas[0].Cmd.Process
				harness.Must(t, holder.Signal(syscall.SIGSTOP))
				fo.othersWhole(t)
				hungry := fo.continuedOnce(t)
				harness.Must(t, holder.Signal(syscall.SIGCONT))
				fo.gate.Open()
				fo.pulls[0].Whole(t, "the holder", fo.layer)
				return hungry
			})
		})
	}
}

// The holder's download fails, since its upstream has gone. A follower tries by itself, at its own
// offset.
func TestHolderGivesUp(t *testing.T) {
	t.Parallel()
	const size = 4 * mib
	f := startFleet(t, 2)
	// The first replica has another upstream than the second one, which goes away.
	fo := follow(t, f, content(size, 3), size/2)
	f.upstream.Fault(func(r *http.Request) bool {
		return r.Method == http.MethodGet && strings.Contains(r.URL.Path, fo.layer.Encoded()) && r.Header.Get("Range") == fmt.Sprintf("bytes=%d-", size/2)
	}, upstreamtest.Status(http.StatusNotFound, "")).Times(1)
	fo.gate.Open()
	fo.othersWhole(t)
}

// A replica that is terminated lets its followers read to the end, and ends in time.
func TestDrainingWaitsForFollowers(t *testing.T) {
	t.Parallel()
	const size = 4 * mib
	unstarved(t, func() bool {
		fo := follow(t, startFleet(t, 2), content(size, 4), size/2)
		holder := fo.replicas[0]
		harness.Must(t, holder.Cmd.Process.Signal(syscall.SIGTERM))
		holder.Logs(t, "shutting down")
		fo.gate.Open()
		fo.othersWhole(t)
		fo.pulls[0].Whole(t, "the holder", fo.layer)
		if code := holder.Wait(t); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if starved(t, fo.replicas[1:]) {
			return true
		}
		if got := fo.bodies(fo.layer); len(got) != 1 {
			t.Errorf("the upstream got %q", got)
		}
		return false
	})
}

// Redis dies, or forgets everything, in the middle of a download. Every body is verified, and
// no replica downloads more than once. Then the replicas share their work again.
func TestRedisIsLost(t *testing.T) {
	testutil.Long(t, "waits for a Redis that is away, twice")
	for name, store := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			loseRedis(t, startFleetOn(t, 3, store(t)), name == "a bucket")
		})
	}
}

func loseRedis(t *testing.T, f *fleet, bucket bool) {
	t.Helper()
	once := func(label string, lose func(), seed byte) {
		t.Helper()
		fo := follow(t, f, content(2*mib, seed), mib)
		lose()
		fo.gate.Open()
		for n, pull := range fo.pulls {
			pull.Whole(t, fmt.Sprintf("%s, replica %d", label, n), fo.layer)
		}
		if got := fo.bodies(fo.layer); len(got) > len(f.replicas) {
			t.Errorf("%s: the upstream got %q", label, got)
		}
	}
	once("flushed", func() { harness.Must(t, f.redis.Client(t).FlushAll(t.Context()).Err()) }, 5)
	once("killed", f.redis.Stop, 6)
	layer := content(mib, 7)
	f.upstream.AddBlob("org/app", layer)
	dgst := digest.FromBytes(layer)
	for n, w := range f.replicas {
		w.Pull(t, "/v2/mirror/org/app/blobs/"+dgst.String()).Whole(t, fmt.Sprintf("without Redis, replica %d", n), dgst)
		w.Logs(t, "replicas do not coordinate until Redis is back")
	}
	// What one replica has uploaded meanwhile, the next one need not download.
	if got := f.bodies(dgst); len(got) != 3 && !(bucket && len(got) > 0 && len(got) < 3) {
		t.Errorf("without Redis the upstream got %q, want one download of each replica", got)
	}
	f.redis.Restart()
	for _, w := range f.replicas {
		w.Logs(t, "replicas coordinate through Redis again")
	}
	once("restarted", func() {}, 8)
}

// A replica that is cut off from Redis works by itself, and the others together.
func TestReplicaIsCutOff(t *testing.T) {
	for name, store := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			unstarved(t, func() bool {
				bucket := store(t)
				return cutOff(t, startFleetOn(t, 2, bucket), bucket)
			})
		})
	}
}

func cutOff(t *testing.T, f *fleet, bucket string) (hungry bool) {
	t.Helper()
	off := harness.StartWeir(t, bucket+replicaConfig("redis://"+testutil.FreeAddr(t), block(f.upstream)))
	layer := content(mib, 9)
	f.upstream.AddBlob("org/app", layer)
	dgst := digest.FromBytes(layer)
	path := "/v2/mirror/org/app/blobs/" + dgst.String()
	// The upstream waits until two downloads are under way: nothing is in a bucket before.
	gate := upstreamtest.NewGate()
	f.upstream.Fault(func(r *http.Request) bool {
		return strings.Contains(r.URL.Path, dgst.Encoded()) && r.Header.Get("Range") == "" // no sample
	}, upstreamtest.StallAfter(mib/2, gate)).Times(2)
	pulls := []*harness.Pulling{off.Pull(t, path), f.replicas[0].Pull(t, path), f.replicas[1].Pull(t, path)}
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	harness.Must(t, gate.Arrived(ctx, 2))
	gate.Open()
	for n, pull := range pulls {
		pull.Whole(t, fmt.Sprintf("pull %d", n), dgst)
	}
	off.Logs(t, "replicas do not coordinate until Redis is back. Each one downloads independently. Check that Redis is running")
	if starved(t, f.replicas) {
		return true
	}
	if got := f.bodies(dgst); len(got) != 2 {
		t.Errorf("the upstream got %q, want two downloads", got)
	}
	return false
}

// An address that nothing listens on, and one that two replicas have, is a line of the log.
// Pulls go on.
func TestWrongAddresses(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 1)
	nowhere := "http://" + testutil.FreeAddr(t)
	first := harness.StartWeir(t, replicaConfig(f.redis.URL(), block(f.upstream), fmt.Sprintf("advertise = %q", nowhere)))
	second := harness.StartWeir(t, replicaConfig(f.redis.URL(), block(f.upstream), fmt.Sprintf("advertise = %q", nowhere)))
	f.replicas[0].Logs(t, "another replica cannot be reached. The two download independently", "its cluster.advertise is correct", nowhere)
	for _, w := range []*harness.Weir{first, second} {
		w.Logs(t, "another replica has the same address", "Set a different cluster.advertise on each replica", nowhere)
	}
	code, out := weir(t, "check", "--online", "--config", f.replicas[0].Config)
	if code != 1 || !strings.Contains(out, nowhere+": error: ") || !strings.Contains(out, ": ok\n") {
		t.Errorf("weir check: exit code %d\n%s", code, out)
	}
	layer := content(mib, 10)
	f.upstream.AddBlob("org/app", layer)
	dgst := digest.FromBytes(layer)
	var pulls []*harness.Pulling
	for _, w := range []*harness.Weir{first, second, f.replicas[0]} {
		pulls = append(pulls, w.Pull(t, "/v2/mirror/org/app/blobs/"+dgst.String()))
	}
	for n, pull := range pulls {
		pull.Whole(t, fmt.Sprintf("pull %d", n), dgst)
	}
}

// Another secret is a line of the log, and the replica is not read.
func TestOtherSecret(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 1)
	other := harness.StartWeir(t, strings.Replace(replicaConfig(f.redis.URL(), block(f.upstream)), replicaSecret, strings.ToUpper(replicaSecret), 1))
	layer := content(mib, 11)
	f.upstream.AddBlob("org/app", layer)
	dgst := digest.FromBytes(layer)
	for n, w := range []*harness.Weir{f.replicas[0], other} {
		w.Pull(t, "/v2/mirror/org/app/blobs/"+dgst.String()).Whole(t, fmt.Sprintf("replica %d", n), dgst)
	}
	if got := f.bodies(dgst); len(got) != 2 {
		t.Errorf("the upstream got %q, want two downloads", got)
	}
	const line = "replicas with a different secret share this Redis"
	for _, w := range []*harness.Weir{f.replicas[0], other} {
		w.Logs(t, line, "Set the same cluster.secret")
	}
	code, out := weir(t, "check", "--online", "--config", other.Config)
	if code != 1 || !strings.Contains(strings.Join(strings.Fields(out), " "), "with another secret: error: 1 of them. Set the same cluster.secret") {
		t.Errorf("weir check: exit code %d\n%s", code, out)
	}
}
