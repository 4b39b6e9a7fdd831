package evict_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/storagetest"
)

// caps are those of the tests: a has 500 bytes, b has no cap.
func caps() map[string]int64 { return map[string]int64{"a": 500, "b": 0} }

// expectBlocks compares the configured blocks with those that are wanted.
func (l *limited) expectBlocks(label string, want ...evict.Block) {
	l.t.Helper()
	if got, known := l.Blocks(); !known || !slices.Equal(got, want) {
		l.t.Errorf("%s: %+v, %v, want %+v", label, got, known, want)
	}
}

// A block with a cap loses its own least recently used content, and no other block loses any.
// No download is refused.
func TestCapOfABlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 10_000, evict.Options{Blocks: caps()})
		l.SetShared(true)
		var a, b []digest.Digest
		for i := range 9 {
			for _, block := range []struct {
				name string
				has  *[]digest.Digest
			}{{"a", &a}, {"b", &b}} {
				dgst, err := l.bring(block.name, 100)
				must(t, err)
				*block.has = append(*block.has, dgst)
			}
			if i > 0 {
				l.use(a[0])
			}
		}
		expectStored(t, "the end", l.memory, slices.Concat(b, a[:1], a[5:])...)
		l.expectBlocks("the end", evict.Block{Name: "a", Bytes: 500, Limit: 500}, evict.Block{Name: "b", Bytes: 900})
		l.expectEvicted(0, 0, 0, 400)
	})
}

// What a block has from another upstream than its first one is the block's.
func TestCapCountsAllUpstreamsOfABlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 0, evict.Options{Blocks: caps()})
		for i := range 10 {
			_, err := l.bring([]string{"a", "a@mirror.example.com"}[i%2], 100)
			must(t, err)
		}
		l.expectBlocks("the end", evict.Block{Name: "a", Bytes: 500, Limit: 500}, evict.Block{Name: "b"})
	})
}

// A changed cap holds at once, also for content that is stored.
func TestCapChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 0, evict.Options{Lazy: true, Blocks: caps()})
		var a []digest.Digest
		for range 5 {
			dgst, err := l.bring("a", 100)
			must(t, err)
			a = append(a, dgst)
		}
		for _, step := range []struct {
			caps  map[string]int64
			left  int
			block evict.Block
		}{
			{map[string]int64{"a": 300}, 3, evict.Block{Name: "a", Bytes: 300, Limit: 300}},
			{map[string]int64{"a": 0}, 3, evict.Block{Name: "a", Bytes: 300}},
			{map[string]int64{"a": 250}, 2, evict.Block{Name: "a", Bytes: 200, Limit: 250}},
			{map[string]int64{"c": 100}, 2, evict.Block{Name: "c", Limit: 100}},
		} {
			l.SetBlocks(step.caps)
			synctest.Wait()
			expectStored(t, fmt.Sprint(step.caps), l.memory, a[5-step.left:]...)
			l.expectBlocks(fmt.Sprint(step.caps), step.block)
		}
		for range 3 { // the block has left the configuration, and so has its cap
			_, err := l.bring("a", 100)
			must(t, err)
		}
		if u := l.Usage(); u.Stored != 500 {
			t.Errorf("%+v", u)
		}
	})
}

// The index is loaded when the first cap comes, if no limit needed it before.
func TestCapWantsTheIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := storagetest.NewMemory(t)
		l := evict.New(memory, evict.NewQuota(0), evict.Options{Lazy: true, Blocks: map[string]int64{"a": 0}})
		defer l.Close()
		synctest.Wait()
		if _, known := l.Blocks(); known {
			t.Fatal("the index is loaded without a limit")
		}
		l.SetBlocks(caps())
		synctest.Wait()
		if _, known := l.Blocks(); !known {
			t.Error("a cap does not load the index")
		}
	})
}

// A blob that is larger than the cap is served, goes as soon as it is closed, and takes no
// other content along.
func TestContentLargerThanTheCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 0, evict.Options{Blocks: caps()})
		var small []digest.Digest
		for range 5 {
			dgst, err := l.bring("a", 100)
			must(t, err)
			small = append(small, dgst)
		}
		content := bytes.Repeat([]byte("l"), 700)
		s, err := l.memory.Spools().Create("a", -1)
		must(t, err)
		_, err = s.Write(content)
		must(t, err)
		must(t, s.Complete())
		large := digest.FromBytes(content)
		must(t, l.Commit(t.Context(), large, s))
		time.Sleep(time.Minute)
		synctest.Wait()
		expectStored(t, "in use", l.memory, append(slices.Clone(small), large)...)
		must(t, s.Close())
		synctest.Wait()
		expectStored(t, "closed", l.memory, small...)
	})
}

// Content in use stays, whatever the cap says, and goes when it is closed.
func TestCapLeavesContentInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 0, evict.Options{Blocks: caps()})
		first, err := l.bring("a", 400)
		must(t, err)
		object, err := l.Open(t.Context(), first)
		must(t, err)
		_, err = l.bring("a", 100)
		must(t, err)
		l.SetBlocks(map[string]int64{"a": 400})
		synctest.Wait()
		expectStored(t, "the first one is open", l.memory, first)
		_, err = l.bring("a", 400)
		must(t, err)
		expectStored(t, "the first one is open, and another one came", l.memory, first)
		must(t, object.Content.Close())
		synctest.Wait()
		expectStored(t, "all is closed", l.memory, first)
	})
}

// Content that two blocks use counts for the first one until it is evicted, and then for
// the one that brings it again.
func TestSharedContentHasOneOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 0, evict.Options{Blocks: caps()})
		bring := func(block string) {
			t.Helper()
			l.made = 1000
			_, err := l.bring(block, 100)
			must(t, err)
		}
		bring("a")
		bring("b")
		l.expectBlocks("both have it", evict.Block{Name: "a", Bytes: 100, Limit: 500}, evict.Block{Name: "b"})
		l.made = 0
		for range 5 {
			_, err := l.bring("a", 100)
			must(t, err)
		}
		bring("b")
		l.expectBlocks("it came again", evict.Block{Name: "a", Bytes: 500, Limit: 500}, evict.Block{Name: "b", Bytes: 100})
	})
}

// Owners survive a restart, an orderly one and one after a minute without an end, with and
// without a complete index.
func TestOwnersSurviveARestart(t *testing.T) {
	for _, orderly := range []bool{true, false} {
		for _, lazy := range []bool{true, false} {
			t.Run(fmt.Sprintf("orderly %v, lazy %v", orderly, lazy), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testOwnersSurvive(t, orderly, lazy) })
			})
		}
	}
}

func testOwnersSurvive(t *testing.T, orderly, lazy bool) {
	memory := storagetest.NewMemory(t)
	opts := evict.Options{Lazy: lazy, Touch: memory.Touch, Owners: memory.Records()}
	var a, b []digest.Digest
	// Three processes bring content, so that later ones add to what earlier ones wrote.
	for process := range 3 {
		l := &limited{t: t, memory: memory, Store: evict.New(memory, evict.NewQuota(0), opts), made: 100 * process}
		for range 3 {
			dgst, err := l.bring("a", 100)
			must(t, err)
			a = append(a, dgst)
			dgst, err = l.bring("b", 100)
			must(t, err)
			b = append(b, dgst)
		}
		if !orderly {
			time.Sleep(61 * time.Second)
			synctest.Wait()
			memory.FailPut(errors.New("killed"))
		}
		_ = l.Close()
		memory.FailPut(nil)
	}
	owner, err := evict.ReadOwners(t.Context(), memory.Records())
	must(t, err)
	for name, digests := range map[string][]digest.Digest{"a": a, "b": b, "": {digest.FromString("unknown")}} {
		for _, dgst := range digests {
			if got := owner(dgst); got != name {
				t.Errorf("for a command, the owner of %s is %q, want %q", dgst, got, name)
			}
		}
	}
	opts.Blocks = caps()
	l := &limited{t: t, memory: memory, Store: evict.New(memory, evict.NewQuota(0), opts)}
	defer l.Close()
	synctest.Wait()
	expectStored(t, "the cap", memory, slices.Concat(b, a[4:])...)
	l.expectBlocks("the cap", evict.Block{Name: "a", Bytes: 500, Limit: 500}, evict.Block{Name: "b", Bytes: 900})
}

// Damaged owners, and those of a later version, are none. The log says so, and content is served
// and evicted as before.
func TestDamagedOwners(t *testing.T) {
	for name, document := range map[string]string{
		"no heading":       "\x00\x01\x02",
		"a later version":  `{"format":2,"owners":["a"]}` + "\n123456780",
		"too many owners":  `{"format":1,"owners":[` + strings.Repeat(`"a",`, 300) + `"a"]}` + "\n",
		"a long heading":   `{"format":1,"owners":["` + strings.Repeat("a", 100_000) + `"]}` + "\n",
		"cut":              `{"format":1,"owners":["a"]}` + "\n1234567",
		"an unknown owner": `{"format":1,"owners":["a"]}` + "\n12345678\xff",
		"empty":            "",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				quota := evict.NewQuota(0)
				memory := storagetest.NewMemoryWithin(t, quota)
				for part := range 64 {
					must(t, memory.Records().Put(t.Context(), fmt.Sprintf("_owners/%02x", part), []byte(document)))
				}
				owner, err := evict.ReadOwners(t.Context(), memory.Records())
				if later := name == "a later version"; later != (err != nil) || !later && owner(digest.FromString("x")) != "" {
					t.Errorf("for a command: %v", err)
				}
				l := newLimitedOver(t, memory, quota, evict.Options{Owners: memory.Records(), Blocks: caps()})
				for range 6 {
					_, err := l.bring("a", 100)
					must(t, err)
				}
				l.expectBlocks("the end", evict.Block{Name: "a", Bytes: 500, Limit: 500}, evict.Block{Name: "b"})
				warns := name != "cut" && name != "an unknown owner"
				if got := strings.Contains(l.log.String(), "cannot read which repository block brought content in"); got != warns {
					t.Errorf("the log: %s", l.log.String())
				}
			})
		})
	}
}

// Downloads, readers, deletions and changes of the caps at the same time leave each byte
// counted once, and each block within its cap.
func TestCapsBesideUses(t *testing.T) {
	quota := evict.NewQuota(0)
	memory := storagetest.NewMemoryWithin(t, quota)
	l := evict.New(memory, quota, evict.Options{Owners: memory.Records(), Blocks: caps()})
	var workers sync.WaitGroup
	for worker := range 4 {
		workers.Go(func() {
			block := []string{"a", "b", "c", "d"}[worker]
			for n := range 200 {
				content := fmt.Appendf(nil, "%0100d", n)
				s, err := memory.Spools().Create(block, -1)
				must(t, err)
				_, err = s.Write(content)
				must(t, errors.Join(err, s.Complete(), l.Commit(t.Context(), digest.FromBytes(content), s), s.Close()))
				switch object, err := l.Open(t.Context(), digest.FromBytes(content)); {
				case err == nil:
					must(t, object.Content.Close())
				case !errors.Is(err, storage.ErrNotExist):
					t.Error(err)
				}
				l.SetBlocks(map[string]int64{"a": 500, "b": 1000, "c": int64(100 * (n % 7))})
			}
		})
	}
	workers.Wait()
	l.SetBlocks(map[string]int64{"a": 300, "b": 300, "c": 300, "d": 300})
	must(t, l.Close())
	// A new process evicts what is left over.
	l = evict.New(memory, evict.NewQuota(0), evict.Options{Owners: memory.Records(), Blocks: map[string]int64{"a": 300, "b": 300, "c": 300, "d": 300}})
	defer l.Close()
	<-l.Loaded()
	deadline := time.Now().Add(2 * time.Minute)
	for l.Usage().Stored > 1200 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	blocks, _ := l.Blocks()
	var sum int64
	for _, block := range blocks {
		sum += block.Bytes
		if block.Bytes > block.Limit {
			t.Errorf("%+v", block)
		}
	}
	if u := l.Usage(); u.Stored != sum || u.Pinned != 0 {
		t.Errorf("%+v, and %d bytes of all blocks", u, sum)
	}
}

// More blocks than there are numbers for do not take the caps from those that have one.
func TestCapsOfManyBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blocks := make(map[string]int64)
		for i := range 600 {
			blocks[fmt.Sprintf("block%03d", i)] = 0
		}
		for i := range evict.MaxCaps {
			blocks[fmt.Sprintf("block%03d", 3*i)] = 200
		}
		l := newLimited(t, 0, evict.Options{Blocks: blocks})
		for range 3 {
			for i := range 600 {
				_, err := l.bring(fmt.Sprintf("block%03d", i), 100)
				must(t, err)
			}
		}
		if got, want := l.Usage().Stored, int64(400*300+200*200); got != want {
			t.Errorf("%d bytes are stored, want %d", got, want)
		}
	})
}

// A blob counts from its commit on, while clients still read it from its spool.
func TestCapCountsContentOnceItIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 0, evict.Options{Blocks: caps()})
		var small []digest.Digest
		for range 5 {
			dgst, err := l.bring("a", 100)
			must(t, err)
			small = append(small, dgst)
		}
		content := bytes.Repeat([]byte("c"), 200)
		s, err := l.memory.Spools().Create("a", -1)
		must(t, err)
		_, err = s.Write(content)
		must(t, err)
		must(t, s.Complete())
		must(t, l.Commit(t.Context(), digest.FromBytes(content), s))
		synctest.Wait()
		expectStored(t, "the spool is open", l.memory, append(slices.Clone(small[2:]), digest.FromBytes(content))...)
		must(t, s.Close())
	})
}

// Owners that could not be written down are written later.
func TestOwnersAreWrittenLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := storagetest.NewMemory(t)
		l := newLimitedOver(t, memory, evict.NewQuota(0), evict.Options{Owners: memory.Records()})
		memory.FailPut(errors.New("read-only"))
		_, err := l.bring("a", 100)
		must(t, err)
		time.Sleep(2 * time.Minute)
		memory.FailPut(nil)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		for _, err := range memory.Records().List(t.Context(), "_owners") {
			must(t, err)
			return
		}
		t.Error("no owner was written")
	})
}
