package cluster

import (
	"context"
	"encoding/json"
	"strconv"
	"time"
)

const (
	// askLife is how long a replica that died while it asked holds up the others.
	askLife = 2 * time.Second
	// maxAsk is how long the answer of another replica is waited for.
	maxAsk = 10 * time.Second
	// firstLook and lastLook bound the growing time between two looks for it.
	firstLook = 10 * time.Millisecond
	lastLook  = 150 * time.Millisecond
	// joinLife is how long an answer stays for the requests that waited for it, although it is not
	// fresh for others.
	joinLife = 5 * time.Second
	// maxAnswer bounds an answer.
	maxAnswer = 4 << 10
	// maxFresh bounds how long an answer of another replica is believed.
	maxFresh = 24 * time.Hour
)

// answer is the value of a key that holds an answer of an upstream.
type answer struct {
	Version int    `json:"v"`
	Token   string `json:"token"`
	Life    int64  `json:"life_ms"`  // of the key, so that the rest of it gives the age
	Fresh   int64  `json:"fresh_ms"` // how long the answer is believed without waiting for it
	At      int64  `json:"at_ms"`    // when it was given, by the clock of the replica that asked
	Body    []byte `json:"body"`     // empty: the replica that asked got no answer
	Seal    string `json:"seal,omitempty"`
}

func (a answer) fields(key string) []string {
	return []string{key, strconv.Itoa(a.Version), a.Token, strconv.FormatInt(a.Life, 10), strconv.FormatInt(a.Fresh, 10), strconv.FormatInt(a.At, 10), string(a.Body)}
}

// age is how long ago the answer was given, if its key lives for some time more. That alone
// gives it without a comparison of clocks. But a client of Redis may write an old answer once
// more, and then the clocks tell that it is old, less the difference that they may have.
func (a answer) age(left time.Duration) time.Duration {
	byClock := time.Since(time.UnixMilli(a.At))
	if byClock < -maxAge {
		return -1 // it is of the future
	}
	age := time.Duration(a.Life)*time.Millisecond - left
	if age < 0 {
		return age
	}
	return max(age, byClock-maxAge)
}

// Ask returns the answer that another replica got to a question, and its age: one that is
// fresh, or one that was being asked for when Ask was called. Otherwise answer is nil, and
// the caller asks by itself.
//
// The caller calls settle once with its answer, for all replicas that wait or for which it is
// fresh; nil: there is none. It does not wait for Redis.
func (c *Cluster) Ask(ctx context.Context, question string) (body []byte, age time.Duration, settle func(answer []byte, fresh time.Duration)) {
	q := &asking{cluster: c, name: short(question)}
	ctx, cancel := context.WithTimeout(ctx, maxAsk)
	defer cancel()
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		body, age, done := q.look(ctx)
		if done {
			return body, age, q.settle
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, 0, q.settle
		}
	}
}

// Look returns an answer of another replica that is fresh, and its age; nil: there is none. It
// waits for no replica.
func (c *Cluster) Look(ctx context.Context, question string) (body []byte, age time.Duration) {
	q := &asking{cluster: c, name: short(question)}
	_ = c.gate.call(ctx, func(ctx context.Context, b board, prefix string) error {
		answered, _ := q.keys(prefix)
		entries, err := b.Read(ctx, answered)
		if err == nil {
			q.first = entries[0].value // this replica has not waited for it
			body, age, _ = q.judge(answered, entries[0])
		}
		return err
	})
	return body, age
}

// Tell shares an answer for as long as it is fresh. The others can see it when Tell returns,
// unless Redis is unavailable.
func (c *Cluster) Tell(ctx context.Context, question string, body []byte, fresh time.Duration) {
	if len(body) > maxAnswer {
		return
	}
	q, a := &asking{cluster: c, name: short(question)}, newAnswer(body, fresh)
	// It is worth telling, even if all clients have left.
	_ = c.gate.call(context.WithoutCancel(ctx), func(ctx context.Context, b board, prefix string) error {
		answered, _ := q.keys(prefix)
		return c.publish(ctx, b, answered, a)
	})
}

// asking is a question that is to be answered.
type asking struct {
	cluster *Cluster
	name    string
	looked  bool
	first   string // the value of the answer at the first look
	refused bool   // at the last look the turn was refused, although no other replica had it
	lease   string // the value by which this replica asks; empty: it does not, or without a lease
	end     context.CancelFunc
}

func (q *asking) keys(prefix string) (answered, asked string) {
	return prefix + ":tag:" + q.name, prefix + ":asks:" + q.name
}

// look looks for an answer, and else takes the turn to ask. It reports whether the wait is
// over.
func (q *asking) look(ctx context.Context) (body []byte, age time.Duration, done bool) {
	c := q.cluster
	err := c.gate.call(ctx, func(ctx context.Context, b board, prefix string) error {
		answered, asked := q.keys(prefix)
		entries, err := b.Read(ctx, answered, asked)
		if err != nil {
			return err
		}
		if !q.looked {
			q.looked, q.first = true, entries[0].value
		}
		body, age, done = q.judge(answered, entries[0])
		switch {
		case done:
			return nil
		case entries[1].value != "":
			// Another replica asks; or another version, or an unknown process.
			_, readable := c.readNote(asked, entries[1].value)
			done = !readable || entries[1].left > askLife
			return nil
		}
		value := c.newNote(asked)
		taken, err := b.Replace(ctx, asked, "", value, askLife)
		// Once, another replica was faster. Twice, the key has no value that can be read.
		done, q.refused = taken || q.refused, !taken
		if err != nil || !taken {
			return err
		}
		// Another replica may have asked, and got its answer, since the look above.
		if entries, err = b.Read(ctx, answered); err != nil {
			return err
		}
		var late bool
		if body, age, late = q.judge(answered, entries[0]); late {
			return b.Remove(ctx, asked, value)
		}
		q.keep(asked, value)
		return nil
	})
	if err != nil {
		return nil, 0, true
	}
	return body, age, done
}

// judge reads the value of the key of an answer. It reports whether that ends the wait: the
// answer is fresh, or it came while this replica waited. Without a body that is the word that
// there is no answer, and all ask by themselves.
func (q *asking) judge(answered string, found entry) (body []byte, age time.Duration, ends bool) {
	a, valid := q.cluster.readAnswer(answered, found.value)
	age = a.age(found.left)
	joined := found.value != q.first && age < maxAsk
	switch {
	case !valid || age < 0:
		return nil, 0, false
	case len(a.Body) == 0:
		return nil, 0, joined
	case joined || age < time.Duration(a.Fresh)*time.Millisecond:
		return a.Body, age, true
	default:
		return nil, 0, false
	}
}

// keep renews the word that this replica asks, until its question is settled.
func (q *asking) keep(asked, value string) {
	ctx, end := context.WithTimeout(q.cluster.ctx, maxAsk)
	q.lease, q.end = value, end
	q.cluster.running.Go(func() {
		tick := time.NewTicker(askLife / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			_ = q.cluster.gate.call(ctx, func(ctx context.Context, b board, _ string) error {
				_, err := b.Replace(ctx, asked, value, value, askLife)
				return err
			})
		}
	})
}

// settle publishes the answer.
func (q *asking) settle(body []byte, fresh time.Duration) {
	if q.end != nil {
		q.end()
	}
	if len(body) > maxAnswer {
		body = nil
	}
	if body == nil && q.lease == "" {
		return // no replica waits for this one
	}
	c := q.cluster
	a := newAnswer(body, fresh)
	c.inBackground(func(ctx context.Context) {
		_ = c.gate.call(ctx, func(ctx context.Context, b board, prefix string) error {
			answered, asked := q.keys(prefix)
			if err := c.publish(ctx, b, answered, a); err != nil || q.lease == "" {
				return err
			}
			return b.Remove(ctx, asked, q.lease)
		})
	})
}

// newAnswer returns an answer of this moment.
func newAnswer(body []byte, fresh time.Duration) answer {
	fresh = min(max(fresh, 0), maxFresh)
	return answer{Version: version, Life: (fresh + joinLife).Milliseconds(), Fresh: fresh.Milliseconds(), At: time.Now().UnixMilli(), Body: body}
}

// publish writes an answer to its key.
func (c *Cluster) publish(ctx context.Context, b board, key string, a answer) error {
	a.Token = randomToken()
	a.Seal = c.sealer.Seal(a.fields(key)...)
	return b.Write(ctx, key, encode(a), time.Duration(a.Life)*time.Millisecond)
}

// readAnswer reads the value of a key. It returns false for one of another version, or that
// no replica with the same secret wrote for this key.
func (c *Cluster) readAnswer(key, value string) (answer, bool) {
	var a answer
	if json.Unmarshal([]byte(value), &a) != nil || a.Version != version || len(a.Body) > maxAnswer {
		return answer{}, false
	}
	valid := a.Life >= 0 && a.Fresh >= 0 && a.Life <= (maxFresh+joinLife).Milliseconds() && a.Fresh <= a.Life
	return a, valid && c.sealer.Valid(a.Seal, a.fields(key)...)
}

// Sealed reports whether answers of other replicas are proven to be theirs.
func (c *Cluster) Sealed() bool { return c.sealer != nil }
