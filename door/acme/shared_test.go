package acme

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/internal/seal"
	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/storagetest"
)

const (
	replicaSecret = "a secret of all replicas of the test"
	keyRecord     = prefix + "/certificates/ca/a.test/a.test.key"
	proofRecord   = prefix + "/acme/ca/challenge_tokens/a.test.json"
)

// replica is one of several machines on one store.
type replica struct {
	*Shared
	near storage.Records
	log  *testutil.LogBuffer
}

func newReplica(t *testing.T, far storage.Records, secret string) replica {
	t.Helper()
	r := replica{near: storagetest.NewMemory(t).Records(), log: new(testutil.LogBuffer)}
	r.Shared = NewShared(SharedOptions{Near: r.near, Far: far, Logger: slog.New(slog.NewTextHandler(r.log, nil))})
	r.Use(secret)
	return r
}

// written returns a record that was written so long ago.
func written(t *testing.T, value string, ago time.Duration) []byte {
	t.Helper()
	text, err := json.Marshal(document{time.Now().Add(-ago), []byte(value)})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// got returns the value of a record; "": there is none.
func got(t *testing.T, r storage.Records, key string) string {
	t.Helper()
	text, err := r.Get(t.Context(), key)
	if errors.Is(err, storage.ErrNotExist) {
		return ""
	}
	var d document
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return string(d.Value)
}

// drivers are those of a shared store.
type drivers struct {
	*storagetest.Memory
	shared *Shared
}

func (d drivers) Records() storage.Records { return d.shared }

// Shared records behave as all others do.
func TestSharedAreRecords(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Driver {
		return drivers{storagetest.NewMemory(t), newReplica(t, storagetest.NewMemory(t).Records(), replicaSecret).Shared}
	})
}

// A record is at other replicas at once, also if they have just seen that there was none, and
// the store has no word of it in clear. Without a secret, nothing is there.
func TestSharedAtOnce(t *testing.T) {
	for _, key := range []string{keyRecord, proofRecord, prefix + "/acme/ca/users/default/default.key"} {
		synctest.Test(t, func(t *testing.T) {
			far := storagetest.NewMemory(t).Records()
			one, other, alone := newReplica(t, far, replicaSecret), newReplica(t, far, replicaSecret), newReplica(t, far, "")
			if value := got(t, other, key); value != "" {
				t.Errorf("%s: %q before it is written", key, value)
			}
			if err := errors.Join(one.Put(t.Context(), key, written(t, "private", 0)), alone.Put(t.Context(), keyRecord+"2", written(t, "alone", 0))); err != nil {
				t.Fatal(err)
			}
			if value := got(t, other, key); value != "private" {
				t.Errorf("%s: %q at another replica", key, value)
			}
			if value := got(t, alone, key); value != "" {
				t.Errorf("%s: %q without a secret", key, value)
			}
			for at, err := range far.List(t.Context(), "") {
				sealed, err2 := far.Get(t.Context(), at)
				if err != nil || err2 != nil || at != key || bytes.Contains(sealed, []byte("value")) || bytes.Contains(sealed, []byte("cHJpdmF0ZQ")) {
					t.Errorf("the store has %s: %q, %v, %v", at, sealed, err, err2)
				}
			}
			if err := one.Delete(t.Context(), key); err != nil {
				t.Error(err)
			}
			if _, err := far.Get(t.Context(), key); !errors.Is(err, storage.ErrNotExist) {
				t.Errorf("%s stays: %v", key, err)
			}
			if isProof(key) && got(t, other, key) != "" {
				t.Error("another replica has a proof that is over")
			}
			if text := one.log.String() + other.log.String() + alone.log.String(); text != "" {
				t.Errorf("the log is\n%s", text)
			}
		})
	}
}

// Records that strangers have written to the store count as absent, with one line of the log. A
// replica with a copy goes on with it, and puts it back.
func TestForgedRecords(t *testing.T) {
	mine, other := seal.NewBox(replicaSecret, sharedPurpose), seal.NewBox("another secret", sharedPurpose)
	now := written(t, "forged", 0)
	forgeries := map[string][]byte{
		"in clear":               now,
		"empty":                  {},
		"cut":                    mine.Seal(now, keyRecord)[:40],
		"grown":                  append(mine.Seal(now, keyRecord), '\n'),
		"other secret":           other.Seal(now, keyRecord),
		"of another record":      mine.Seal(now, prefix+"/certificates/ca/b.test/b.test.key"),
		"of another kind":        mine.Seal(now, strings.TrimSuffix(keyRecord, "key")+"crt"),
		"of another purpose":     seal.NewBox(replicaSecret, "weir grant token v1").Seal(now, keyRecord),
		"sealed, and no record":  mine.Seal([]byte("{"), keyRecord),
		"too long":               mine.Seal(bytes.Repeat([]byte(" "), maxShared+1), keyRecord),
		"replayed, an older one": mine.Seal(written(t, "forged", time.Hour), keyRecord),
	}
	for name, forged := range forgeries {
		t.Run(name, func(t *testing.T) {
			far := storagetest.NewMemory(t).Records()
			if err := far.Put(t.Context(), keyRecord, forged); err != nil {
				t.Fatal(err)
			}
			_, closed := mine.Open(forged, keyRecord)
			fresh, known := newReplica(t, far, replicaSecret), newReplica(t, far, replicaSecret)
			if closed != nil || name == "too long" {
				for range 3 {
					if value := got(t, fresh, keyRecord); value != "" {
						t.Errorf("without a copy: %q", value)
					}
				}
				if n := fresh.log.Count("cannot be decrypted and is ignored", "same secret"); n != 1 {
					t.Errorf("%d lines:\n%s", n, fresh.log.String())
				}
			}
			if err := known.near.Put(t.Context(), keyRecord, written(t, "good", time.Minute)); err != nil {
				t.Fatal(err)
			}
			if value := got(t, known, keyRecord); value != "good" {
				t.Errorf("with a copy: %q", value)
			}
			if value := got(t, fresh, keyRecord); value != "good" {
				t.Errorf("it was not put back: %q", value)
			}
		})
	}
}

// A certificate and a key that do not belong together are no certificate, so that another one
// is ordered.
func TestCertificateOfAnotherKey(t *testing.T) {
	authority := testutil.NewAuthority(t)
	issue := func(name string) (crt, key []byte) {
		crtFile, keyFile := authority.Issue(name, time.Now().Add(time.Hour))
		return must(os.ReadFile(crtFile)), must(os.ReadFile(keyFile))
	}
	crt, key := issue("a.test")
	_, otherKey := issue("other.test")
	for name, c := range map[string]struct {
		crt, key []byte
		exists   bool
	}{
		"pair":            {crt, key, true},
		"other key":       {crt, otherKey, false},
		"no certificate":  {[]byte("none"), key, false},
		"no key in it":    {crt, crt, false},
		"empty":           {nil, nil, false},
		"without the key": {crt, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := records{records: storagetest.NewMemory(t).Records()}
			const at = "certificates/ca/a.test/a.test"
			if err := r.Store(t.Context(), at+".crt", c.crt); err != nil {
				t.Fatal(err)
			}
			if name != "without the key" {
				if err := r.Store(t.Context(), at+".key", c.key); err != nil {
					t.Fatal(err)
				}
			}
			if r.Exists(t.Context(), at+".crt") != c.exists {
				t.Errorf("exists: %v", !c.exists)
			}
			if _, err := r.Load(t.Context(), at+".crt"); (err == nil) != c.exists || err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		})
	}
}

// away are records of a store that hangs, fails or lets nothing be removed.
type away struct {
	storage.Records
	reads   atomic.Int32
	failure atomic.Pointer[string]
}

const (
	hangs   = "hangs"
	refuses = "refuses"
	keeps   = "keeps"
)

func (a *away) ask(ctx context.Context) error {
	switch how := a.failure.Load(); {
	case how == nil || *how == keeps:
		return nil
	case *how == hangs:
		<-ctx.Done()
		return context.Cause(ctx)
	default:
		return errors.New("503")
	}
}

func (a *away) Get(ctx context.Context, key string) ([]byte, error) {
	a.reads.Add(1)
	if err := a.ask(ctx); err != nil {
		return nil, err
	}
	return a.Records.Get(ctx, key)
}

func (a *away) Put(ctx context.Context, key string, text []byte) error {
	if err := a.ask(ctx); err != nil {
		return err
	}
	return a.Records.Put(ctx, key, text)
}

func (a *away) Delete(ctx context.Context, key string) error {
	if how := a.failure.Load(); how != nil && *how == keeps {
		return errors.New("403")
	}
	if err := a.ask(ctx); err != nil {
		return err
	}
	return a.Records.Delete(ctx, key)
}

func (a *away) List(ctx context.Context, below string) iter.Seq2[string, error] {
	if err := a.ask(ctx); err != nil {
		return func(yield func(string, error) bool) { yield("", err) }
	}
	return a.Records.List(ctx, below)
}

func (a *away) is(how string) { a.failure.Store(&how) }

// While the store is away, or refuses, this machine goes on with its copies and by itself, and
// waits for the store once. Afterwards the others get its records.
func TestSharedStoreIsAway(t *testing.T) {
	for _, how := range []string{hangs, refuses} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				far := &away{Records: storagetest.NewMemory(t).Records()}
				one, other := newReplica(t, far, replicaSecret), newReplica(t, far, replicaSecret)
				if err := one.Put(t.Context(), keyRecord, written(t, "first", 0)); err != nil {
					t.Fatal(err)
				}
				if got(t, other, keyRecord) != "first" {
					t.Error("it is not shared")
				}
				far.is(how)
				begun, reads := time.Now(), far.reads.Load()
				for range 20 {
					if value := got(t, other, keyRecord); value != "first" {
						t.Errorf("the copy: %q", value)
					}
				}
				if waited, asked := time.Since(begun), far.reads.Load()-reads; waited > farRead || asked != 1 {
					t.Errorf("%d reads, %s", asked, waited)
				}
				time.Sleep(time.Minute)
				begun = time.Now()
				for _, key := range []string{keyRecord, proofRecord} {
					if err := one.Put(t.Context(), key, written(t, "second", 0)); err != nil {
						t.Error(err)
					}
					if value := got(t, one, key); value != "second" {
						t.Errorf("%s: %q", key, value)
					}
				}
				for key, err := range one.List(t.Context(), prefix) {
					if err != nil || key != keyRecord && key != proofRecord {
						t.Errorf("%s: %v", key, err)
					}
				}
				if err := one.Delete(t.Context(), proofRecord); err != nil {
					t.Error(err)
				}
				if waited := time.Since(begun); waited > 4*farWrite {
					t.Errorf("an order waited for %s", waited)
				}
				if n := one.log.Count("cannot share a record of certificates", "Check that the bucket is writable"); n != 1 {
					t.Errorf("%d lines:\n%s", n, one.log.String())
				}
				far.failure.Store(nil)
				time.Sleep(awayFor)
				if a, b := got(t, one, keyRecord), got(t, other, keyRecord); a != "second" || b != "second" {
					t.Errorf("afterwards: %q and %q", a, b)
				}
				time.Sleep(2 * calm)
				if one.log.Count("shared with other replicas again") != 1 {
					t.Errorf("the log is\n%s", one.log.String())
				}
			})
		})
	}
}

// A store that lets nothing be removed holds up no order.
func TestSharedStoreKeeps(t *testing.T) {
	far := &away{Records: storagetest.NewMemory(t).Records()}
	far.is(keeps)
	r := records{records: newReplica(t, far, replicaSecret).Shared}
	for _, key := range []string{"rw_test_1", "acme/ca/challenge_tokens/a.test.json"} {
		if err := errors.Join(r.Store(t.Context(), key, []byte("text")), second(r.Load(t.Context(), key)), r.Delete(t.Context(), key)); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	if keys, err := r.List(t.Context(), "rw_test_1", true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("trials are left in the store: %q, %v", keys, err)
	}
}

// Strangers who ask for a proof at once cost few reads, and none of them gets an answer from
// before the question.
func TestManyProofs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far := &away{Records: storagetest.NewMemory(t).Records()}
		one, other := newReplica(t, far, replicaSecret), newReplica(t, far, replicaSecret)
		var waiting sync.WaitGroup
		for i := range 1000 {
			waiting.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				ctx := t.Context()
				if i%2 == 0 { // it leaves
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, 10*time.Millisecond)
					defer cancel()
				}
				_, _ = other.Get(ctx, proofRecord)
			})
		}
		time.Sleep(500 * time.Millisecond)
		if err := one.Put(t.Context(), proofRecord, written(t, "proof", 0)); err != nil {
			t.Fatal(err)
		}
		if value := got(t, other, proofRecord); value != "proof" {
			t.Errorf("amid the others: %q", value)
		}
		waiting.Wait()
		if n := far.reads.Load(); n > 12 {
			t.Errorf("%d reads", n)
		}
	})
}

// endless are records with endless keys.
type endless struct{ storage.Records }

func (endless) List(context.Context, string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for i := 0; yield(fmt.Sprintf("%s/users/%09d", prefix, i), nil); i++ {
		}
	}
}

// A list ends, and has the copies of this machine.
func TestEndlessList(t *testing.T) {
	r := newReplica(t, endless{storagetest.NewMemory(t).Records()}, replicaSecret)
	if err := r.near.Put(t.Context(), prefix+"/users/own", written(t, "own", 0)); err != nil {
		t.Fatal(err)
	}
	keys, err := records{records: r.Shared}.List(t.Context(), "users", true)
	if err != nil || len(keys) != maxSharedKeys+1 || !slices.Contains(keys, "users/own") {
		t.Errorf("%d keys, %v", len(keys), err)
	}
}

// Another secret that comes into force makes records of the last one absent, and the copies
// are shared again.
func TestAnotherSecret(t *testing.T) {
	far := storagetest.NewMemory(t).Records()
	one, other := newReplica(t, far, replicaSecret), newReplica(t, far, "the next secret of all replicas")
	if err := one.Put(t.Context(), keyRecord, written(t, "key", 0)); err != nil {
		t.Fatal(err)
	}
	if value := got(t, other, keyRecord); value != "" {
		t.Errorf("with another secret: %q", value)
	}
	one.Use("the next secret of all replicas")
	if a, b := got(t, one, keyRecord), got(t, other, keyRecord); a != "key" || b != "key" {
		t.Errorf("with the next secret: %q and %q", a, b)
	}
}
