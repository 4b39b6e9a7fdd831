package cluster_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/cluster"
)

// Many replicas ask at once, and one of them asks the upstream. Those who waited get an answer
// that is fresh for no other.
func TestAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var asked atomic.Int64
		var everyone sync.WaitGroup
		for n := range 5 {
			r := b.start(fmt.Sprint("replica", n))
			everyone.Go(func() {
				body, _, settle := r.Ask(t.Context(), "question")
				if body == nil {
					asked.Add(1)
					time.Sleep(6 * time.Second) // its upstream is slow
					settle([]byte("answer"), 0)
				} else if string(body) != "answer" {
					t.Errorf("got %q", body)
				}
			})
		}
		everyone.Wait()
		if got := asked.Load(); got != 1 {
			t.Errorf("%d replicas asked", got)
		}
		synctest.Wait()
		late := b.start("late")
		body, _, settle := late.Ask(t.Context(), "question")
		if body != nil {
			t.Errorf("an answer that is not fresh was believed: %q", body)
		}
		settle(nil, 0)
	})
}

// An answer is believed while it is fresh, with its age, by those who ask the same question.
func TestFreshAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one, two := b.start("one"), b.start("two")
		_, _, settle := one.Ask(t.Context(), "question")
		settle([]byte("answer"), time.Minute)
		synctest.Wait()
		time.Sleep(50 * time.Second)
		if body, age, _ := two.Ask(t.Context(), "question"); string(body) != "answer" || age != 50*time.Second {
			t.Errorf("%q of age %s", body, age)
		}
		if body, _, _ := two.Ask(t.Context(), "another question"); body != nil {
			t.Errorf("another question got %q", body)
		}
		time.Sleep(11 * time.Second)
		if body, _, _ := two.Ask(t.Context(), "question"); body != nil {
			t.Errorf("an old answer was believed: %q", body)
		}
	})
}

// A replica that gets no answer, dies, or takes too long does not hold up the others.
func TestAskerFails(t *testing.T) {
	const slow = 4 * time.Second // of each upstream
	for name, tc := range map[string]struct {
		fail   func(one *replica, settle func([]byte, time.Duration))
		within time.Duration
	}{
		"it gets no answer": {func(_ *replica, settle func([]byte, time.Duration)) { settle(nil, 0) }, time.Second + slow},
		// One of the others asks without success, and then the next one.
		"it dies":       {func(one *replica, _ func([]byte, time.Duration)) { one.UseBoard(nil, "") }, 3*time.Second + 2*slow},
		"it takes long": {func(*replica, func([]byte, time.Duration)) {}, 11*time.Second + slow},
		"its answer is too long": {func(_ *replica, settle func([]byte, time.Duration)) {
			settle([]byte(strings.Repeat("x", 5<<10)), time.Minute)
		}, time.Second + slow},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				one, two, three := b.start("one"), b.start("two"), b.start("three")
				_, _, settle := one.Ask(t.Context(), "question")
				begun := time.Now()
				var both sync.WaitGroup
				for _, r := range []*replica{two, three} {
					both.Go(func() {
						body, _, settle := r.Ask(t.Context(), "question")
						if body != nil {
							t.Errorf("got %q", body)
						}
						time.Sleep(slow)
						settle(nil, 0)
					})
				}
				time.Sleep(100 * time.Millisecond)
				tc.fail(one, settle)
				both.Wait()
				if took := time.Since(begun); took > tc.within {
					t.Errorf("it took %s, want %s", took, tc.within)
				}
				settle(nil, 0)
			})
		})
	}
}

// A replica that finds no answer, and takes the turn to ask after another replica has got one in
// between, gets that one.
func TestAnswerBetweenLookAndTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one, two := b.start("one"), b.start("two")
		b.redis.before = func() {
			_, _, settle := one.Ask(t.Context(), "question")
			settle([]byte("answer"), 0)
			synctest.Wait()
		}
		body, _, settle := two.Ask(t.Context(), "question")
		settle(nil, 0)
		synctest.Wait()
		if string(body) != "answer" {
			t.Errorf("got %q", body)
		}
		if asks := b.redis.named(prefix + ":asks:"); len(asks) != 0 {
			t.Errorf("keys are left: %q", asks)
		}
	})
}

// A word that is told without a turn is seen by the others at once, while it is fresh, and an
// answer that is only for those who waited is not.
func TestTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one, two := b.start("one"), b.start("two")
		if body, _ := two.Look(t.Context(), "question"); body != nil {
			t.Errorf("nothing was told: %q", body)
		}
		one.Tell(t.Context(), "question", []byte("gone"), time.Minute)
		one.Tell(t.Context(), "long", bytes.Repeat([]byte("x"), 5<<10), time.Minute)
		if body, _ := two.Look(t.Context(), "long"); body != nil {
			t.Errorf("a long word: %d bytes", len(body))
		}
		time.Sleep(10 * time.Second)
		if body, age := two.Look(t.Context(), "question"); string(body) != "gone" || age != 10*time.Second {
			t.Errorf("got %q of age %s", body, age)
		}
		time.Sleep(50 * time.Second)
		if body, _ := two.Look(t.Context(), "question"); body != nil {
			t.Errorf("an old word: %q", body)
		}
		_, _, settle := one.Ask(t.Context(), "question")
		settle([]byte("answer"), 0)
		synctest.Wait()
		if body, _ := two.Look(t.Context(), "question"); body != nil {
			t.Errorf("an answer for those who waited: %q", body)
		}
		b.redis.set(nil, true)
		begun := time.Now()
		for range 10 {
			one.Tell(t.Context(), "question", []byte("gone"), time.Minute)
			one.Look(t.Context(), "question")
		}
		if took := time.Since(begun); took > 500*time.Millisecond {
			t.Errorf("without Redis it took %s", took)
		}
	})
}

// Redis away: each replica asks by itself, at once.
func TestAskWithoutRedis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one := b.start("one")
		b.redis.set(nil, true)
		begun := time.Now()
		for range 10 {
			body, _, settle := one.Ask(t.Context(), "question")
			if body != nil {
				t.Errorf("got %q", body)
			}
			settle([]byte("answer"), time.Minute)
		}
		if took := time.Since(begun); took > 500*time.Millisecond {
			t.Errorf("it took %s", took)
		}
	})
}

// An answer that no replica with the same secret gave, to this question, is not believed.
func TestForgedAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one := b.start("one")
		stranger := b.start("stranger", func(o *cluster.Options) { o.Secret = strings.ToUpper(secret) })
		publish := func(r *replica, question string) (key, value string) {
			b.redis.flush()
			_, _, settle := r.Ask(t.Context(), question)
			settle([]byte("answer"), time.Hour)
			synctest.Wait()
			key = b.redis.named(prefix + ":tag:")[0]
			return key, b.redis.get(key)
		}
		key, sealed := publish(one, "question")
		if body, _, _ := one.Ask(t.Context(), "question"); body == nil {
			t.Error("its own answer is not believed")
		}
		_, moved := publish(one, "another")
		_, forged := publish(stranger, "question")
		for name, value := range map[string]string{
			"no JSON": "answer", "null": "null", "a list": "[]", "of another question": moved, "another secret": forged,
			"another body":    strings.Replace(sealed, `"body":"`, `"body":"AAAA`, 1),
			"a longer life":   strings.Replace(sealed, `"fresh_ms":3600000`, `"fresh_ms":3605000`, 1),
			"another version": strings.Replace(sealed, `"v":1`, `"v":2`, 1),
		} {
			b.redis.flush()
			if err := b.redis.Write(t.Context(), key, value, time.Hour); err != nil {
				t.Fatal(err)
			}
			body, _, settle := one.Ask(t.Context(), "question")
			if body != nil {
				t.Errorf("%s: got %q", name, body)
			}
			settle(nil, 0)
			synctest.Wait()
		}
		// One that a stranger writes once more gets no younger than the clocks allow.
		time.Sleep(59*time.Minute + 30*time.Second)
		again := func() ([]byte, time.Duration) {
			b.redis.flush()
			if err := b.redis.Write(t.Context(), key, sealed, time.Hour); err != nil {
				t.Fatal(err)
			}
			body, age, settle := one.Ask(t.Context(), "question")
			settle(nil, 0)
			synctest.Wait()
			return body, age
		}
		if body, age := again(); body == nil || age < 58*time.Minute {
			t.Errorf("an old answer: got %q of age %s", body, age)
		}
		time.Sleep(2 * time.Minute)
		if body, age := again(); body != nil {
			t.Errorf("one that is over: got %q of age %s", body, age)
		}
		// Nor is it believed by those who wait for the answer of another replica.
		b.redis.flush()
		two := b.start("two")
		_, _, settle := two.Ask(t.Context(), "question")
		waiting := make(chan []byte)
		go func() {
			body, _, _ := one.Ask(t.Context(), "question")
			waiting <- body
		}()
		time.Sleep(time.Second)
		if err := b.redis.Write(t.Context(), key, sealed, time.Hour); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		settle([]byte("the true answer"), 0)
		if body := <-waiting; string(body) != "the true answer" {
			t.Errorf("one who waits: got %q", body)
		}
		// One that is kept alive by a stranger ends with its own life.
		b.redis.flush()
		if err := b.redis.Write(t.Context(), key, sealed, 48*time.Hour); err != nil {
			t.Fatal(err)
		}
		if body, age, _ := one.Ask(t.Context(), "question"); body != nil {
			t.Errorf("got %q of age %s", body, age)
		}
	})
}

// A word that no replica gave, or that a stranger keeps, holds up no question.
func TestForgedAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one := b.start("one")
		_, _, settle := one.Ask(t.Context(), "question")
		synctest.Wait()
		key := b.redis.named(prefix + ":asks:")[0]
		sealed := b.redis.get(key)
		settle(nil, 0)
		synctest.Wait()
		for name, tc := range map[string]struct {
			value string
			life  time.Duration
		}{
			"no JSON":             {"x", time.Hour},
			"no seal":             {`{"v":1,"token":"x","url":"http://one:8001"}`, time.Second},
			"another version":     {strings.Replace(sealed, `"v":1`, `"v":2`, 1), time.Second},
			"kept by a stranger":  {sealed, time.Hour},
			"cannot be read":      {strings.Repeat("x", cluster.MaxValue+1), time.Hour},
			"of another question": {one.Note(prefix + ":asks:other"), time.Second},
			"of a lease":          {one.Note(prefix + ":lease:other"), time.Second},
		} {
			b.redis.flush()
			if err := b.redis.Write(t.Context(), key, tc.value, tc.life); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			body, _, settle := one.Ask(t.Context(), "question")
			if took := time.Since(begun); body != nil || took > 100*time.Millisecond {
				t.Errorf("%s: %q after %s", name, body, took)
			}
			settle(nil, 0)
			synctest.Wait()
		}
	})
}
