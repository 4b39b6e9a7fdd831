package tests

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

const (
	// stepsPerCall bounds how many calls of one name are spoilt: the first, the
	// last, and evenly between them. Flushes, directories and the parts of a
	// blob are more than that; of the others it is each.
	stepsPerCall = 12
	// stepsPerKill is smaller since each costs two starts.
	stepsPerKill = 3
	// settled is longer than the work that follows a pull.
	settled = time.Second
)

// anImage is the image of one scenario: a manifest and two layers.
type anImage struct {
	repo     string
	manifest digest.Digest
	layers   []digest.Digest
}

func addScenario(t *testing.T, upstream *upstreamtest.Registry, n int) anImage {
	t.Helper()
	small, large := random(t, 100*kib, uint64(2*n)), random(t, 3*mib, uint64(2*n+1))
	image := anImage{repo: fmt.Sprintf("org/app-%d", n)}
	image.manifest = upstream.AddImage(image.repo, "v1", small, large).Digest
	image.layers = []digest.Digest{digest.FromBytes(small), digest.FromBytes(large)}
	return image
}

// pulls starts two clients that want all of an image at once.
func (i anImage) pulls(t *testing.T, w *harness.Weir) (all []*harness.Pulling, want []digest.Digest) {
	t.Helper()
	for range 2 {
		all, want = append(all, w.Pull(t, manifestPath("mirror/"+i.repo, "v1"))), append(want, i.manifest)
		for _, layer := range i.layers {
			all, want = append(all, w.Pull(t, blobPath("mirror/"+i.repo, layer))), append(want, layer)
		}
	}
	return all, want
}

// pull fails the test unless both clients get every byte.
func (i anImage) pull(t *testing.T, label string, w *harness.Weir) {
	t.Helper()
	all, want := i.pulls(t, w)
	for n, p := range all {
		p.Whole(t, fmt.Sprintf("%s, pull %d", label, n), want[n])
	}
	w.MetricIs(t, 0, "weir_downloads")
}

// countChanges returns how often each call occurs at least in a scenario that
// nothing disturbs. Calls that occur in one of two runs only are chance, such as
// the removal of a temporary file of a download that was not needed.
func countChanges(t *testing.T, store string, expected ...string) map[string]int {
	t.Helper()
	upstream := upstreamtest.New(t)
	image := addScenario(t, upstream, 0)
	count := func() map[string]int {
		s := startSupervised(t, t.TempDir(), block("mirror", upstream)+store)
		s.aim("", 0, 0)
		image.pull(t, "undisturbed", s.Weir)
		counted, _ := s.rest()
		return counted
	}
	counted, again := count(), count()
	for name, n := range counted {
		if counted[name] = min(n, again[name]); counted[name] == 0 {
			delete(counted, name)
		}
	}
	for _, name := range append([]string{"openat", "mkdirat", "renameat", "write", "pwrite64"}, expected...) {
		if counted[name] == 0 {
			t.Errorf("no %s among %v: does the supervisor see the calls of the mirror?", name, counted)
		}
	}
	return counted
}

// isChance reports whether a call may be missing from a run of the scenario, however often it
// occurred in others: only the temporary files of downloads that were not needed are removed.
func isChance(name string) bool { return name == "unlinkat" }

// spread returns at most limit of the numbers from 1 to n, the first and the
// last among them.
func spread(n, limit int) []int {
	var steps []int
	for i := range min(n, limit) {
		steps = append(steps, 1+i*(n-1)/max(1, min(n, limit)-1))
	}
	return steps
}

// eachFlushed is a store with a flush of each file, whose calls are the more ones.
const eachFlushed = "[blob_store.fs]\nsync_to_disk = \"always\"\n"

// The calls by which content and records come to be stored fail in turn. No
// client notices, nothing corrupt is stored, and caching goes on by itself.
func TestWriteFailuresInTurn(t *testing.T) {
	t.Parallel()
	counted := countChanges(t, eachFlushed, "fchmod", "fsync")
	t.Logf("calls in one scenario: %v", counted)
	for _, name := range slices.Sorted(maps.Keys(counted)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			upstream := upstreamtest.New(t)
			s := startSupervised(t, t.TempDir(), block("mirror", upstream)+eachFlushed)
			hits, tries := 0, 0
			for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
				for _, n := range spread(counted[name], stepsPerCall) {
					tries++
					if s.survives(t, upstream, addScenario(t, upstream, tries), name, n, errno) {
						hits++
					}
				}
			}
			// How the work is divided among calls may differ a little.
			if !isChance(name) && hits*2 < tries {
				t.Errorf("%d of %d failures were injected", hits, tries)
			}
			s.ExpectIntact(t)
		})
	}
}

// survives pulls an image while one call fails, and once more to see that it
// is cached in the end. It reports whether the call occurred.
func (s *supervisor) survives(t *testing.T, upstream *upstreamtest.Registry, image anImage, name string, n int, errno syscall.Errno) bool {
	t.Helper()
	label := fmt.Sprintf("%v at %s %d", errno, name, n)
	s.aim(name, n, errno)
	image.pull(t, label, s.Weir)
	_, hit := s.rest()
	image.pull(t, "after "+label, s.Weir)
	upstream.ResetRequests()
	image.pull(t, "cached after "+label, s.Weir)
	for _, request := range upstream.Requests() {
		if strings.HasPrefix(request, "GET ") {
			t.Errorf("%s: not cached afterwards: %s", label, request)
		}
	}
	return hit
}

// A mirror is killed in place of each rename, and of some calls of every other
// name. The next mirror finds content that is whole or absent, and removes the
// rest. The kernel outlives the mirror, so this is no power cut: TestPowerCut is one.
func TestKillAtEveryStep(t *testing.T) {
	t.Parallel()
	counted := countChanges(t, "")
	for _, name := range slices.Sorted(maps.Keys(counted)) {
		limit := stepsPerKill
		if name == "renameat" { // the step that counts
			limit = stepsPerCall
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kills, steps := 0, spread(counted[name], limit)
			for _, n := range steps {
				if killAt(t, name, n) {
					kills++
				}
			}
			// A call that occurred once may have been chance.
			if len(steps) > 1 && !isChance(name) && kills*2 < len(steps) {
				t.Errorf("%d of %d kills happened", kills, len(steps))
			}
		})
	}
}

// killAt reports whether the call occurred.
func killAt(t *testing.T, name string, n int) bool {
	t.Helper()
	label := fmt.Sprintf("killed at %s %d", name, n)
	dir := t.TempDir()
	upstream := upstreamtest.New(t)
	image := addScenario(t, upstream, n)
	s := startSupervised(t, dir, block("mirror", upstream))
	s.aim(name, n, 0)
	all, want := image.pulls(t, s.Weir)
	for i, p := range all {
		if p.Wait(t); p.Err == nil && p.Digest != want[i] {
			t.Errorf("%s: pull %d took %d bytes for whole", label, i, p.Length)
		}
	}
	// Records may be written after the last byte has reached its client. Where
	// the work was divided otherwise this time, the kill comes after its end.
	select {
	case <-s.Exited:
	case <-time.After(settled):
		s.Kill()
	}
	_, killed := s.rest()

	next := harness.StartWeirIn(t, dir, block("mirror", upstream))
	next.ExpectIntact(t)
	harness.Eventually(t, label+": the leftovers are gone", func() bool { return len(next.Stored(t, "tmp")) == 1 })
	for _, layer := range image.layers {
		next.Pull(t, blobPath("mirror/"+image.repo, layer)).Whole(t, label, layer)
	}
	next.Pull(t, manifestPath("mirror/"+image.repo, image.manifest.String())).Whole(t, label, image.manifest)
	next.MetricIs(t, 0, "weir_downloads")
	next.ExpectIntact(t)
	return killed
}
