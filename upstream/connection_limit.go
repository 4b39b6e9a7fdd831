package upstream

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/weirhq/weir/internal/episode"
	"github.com/weirhq/weir/oci"
)

const (
	// blobPatience is how long a request for a blob waits for a connection: clients show
	// no progress for as long, and most of them have no time limit.
	blobPatience = 5 * time.Minute
	// shortPatience is that time for all other requests. Clients have limits for these.
	shortPatience = 30 * time.Second
	// noticeableWait is the wait from which on the log says that the limit slows pulls.
	noticeableWait = time.Second
	// uncrowdedAfter is how long no request must have had such a wait until the log says so.
	uncrowdedAfter = time.Minute
)

// connectionLimit bounds the requests that are under way to an upstream, each with its
// body. Further ones wait. Blocks take turns, so that a burst of one block does not delay
// another block's request behind its whole queue. Within a block, blobs and other requests
// take turns too: a manifest does not wait for all layers before it. A nil limit bounds nothing.
type connectionLimit struct {
	size    int
	host    string
	logger  *slog.Logger
	waited  func(time.Duration)
	crowded *episode.Episode

	mu      sync.Mutex
	busy    int
	waiting int
	blocks  map[string]*blockQueue
	turns   []*blockQueue // those of blocks, the next one first
}

// blockQueue are the requests of one block that wait, in the order of arrival.
type blockQueue struct {
	block  string
	kinds  [2][]chan struct{} // each is closed when its request has a connection
	served kind               // of the last turn
}

// kind is a kind of requests that wait for each other.
type kind int

const (
	kindBlob kind = iota
	kindShort
)

func newConnectionLimit(size int, host string, logger *slog.Logger) *connectionLimit {
	if size <= 0 {
		return nil
	}
	return &connectionLimit{
		size: size, host: host, logger: logger, waited: func(time.Duration) {},
		crowded: episode.New(uncrowdedAfter, func() {
			logger.Info("requests no longer wait for a connection to the upstream", "upstream", host)
		}),
		blocks: make(map[string]*blockQueue),
	}
}

// CrowdedError says that a request waited for a connection to an upstream, whose limit
// other requests had reached.
type CrowdedError struct {
	Host  string
	Limit int
	Wait  time.Duration // 0: the request did not wait
}

func (e *CrowdedError) Error() string {
	return fmt.Sprintf("the limit of %d connections to %s was reached for %s", e.Limit, e.Host, e.Wait.Round(time.Millisecond))
}

// enter waits for a connection, which the request has until it calls leave. It returns a
// *CrowdedError if that takes too long, and the cause of ctx if that ends before. A segment
// does not wait, since its blob comes without it.
func (l *connectionLimit) enter(ctx context.Context) (leave func(), err error) {
	if l == nil {
		return func() {}, nil
	}
	v := visitOf(ctx)
	k, patience := kindShort, shortPatience
	if v.blob {
		k, patience = kindBlob, blobPatience
	}
	turn, ok := l.stand(v.block, k, v.forToken || !oci.IsSegment(ctx))
	switch {
	case ok:
		return sync.OnceFunc(l.leave), nil
	case turn == nil:
		return nil, &CrowdedError{Host: l.host, Limit: l.size}
	}
	v.timer.pause()
	defer v.timer.resume()
	began := time.Now()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-turn:
	case <-ctx.Done():
		if err = context.Cause(ctx); err == errHeaderTimeout { // that of a token
			err = &CrowdedError{Host: l.host, Limit: l.size, Wait: time.Since(began)}
		}
	case <-timer.C:
		err = &CrowdedError{Host: l.host, Limit: l.size, Wait: patience}
	}
	v.noteWait(time.Since(began))
	l.noteWait(time.Since(began))
	if err != nil {
		if !l.withdraw(v.block, k, turn) {
			l.leave() // the connection became free at the same moment
		}
		return nil, err
	}
	return sync.OnceFunc(l.leave), nil
}

// tryEnter is enter for a request that does not wait.
func (l *connectionLimit) tryEnter() (leave func(), ok bool) {
	if l == nil {
		return func() {}, true
	}
	if _, ok = l.stand("", kindShort, false); !ok {
		return nil, false
	}
	return sync.OnceFunc(l.leave), true
}

// stand takes a free connection, or else puts the request into the queue of its block, if
// it waits.
func (l *connectionLimit) stand(block string, k kind, waits bool) (turn chan struct{}, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy < l.size {
		l.busy++
		return nil, true
	}
	if !waits {
		return nil, false
	}
	q := l.blocks[block]
	if q == nil {
		q = &blockQueue{block: block}
		l.blocks[block] = q
		l.turns = append(l.turns, q)
	}
	turn = make(chan struct{})
	q.kinds[k] = append(q.kinds[k], turn)
	l.waiting++
	return turn, false
}

// leave gives a connection to the request that is next.
func (l *connectionLimit) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.turns) == 0 {
		l.busy--
		return
	}
	q := l.turns[0]
	// The block's next request waits for one of each other block.
	l.turns = append(l.turns[1:], q)
	k := kindShort
	if len(q.kinds[kindShort]) == 0 || q.served == kindShort && len(q.kinds[kindBlob]) > 0 {
		k = kindBlob
	}
	q.served = k
	turn := q.kinds[k][0]
	l.remove(q, k, turn)
	close(turn)
}

// withdraw takes a request out of its queue. It returns false if the request has its
// connection by now.
func (l *connectionLimit) withdraw(block string, k kind, turn chan struct{}) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.blocks[block]
	return q != nil && l.remove(q, k, turn)
}

// remove takes a request out of a queue, and an empty queue out of the limit. It reports
// whether the request was there. The mutex must be held.
func (l *connectionLimit) remove(q *blockQueue, k kind, turn chan struct{}) bool {
	at := slices.Index(q.kinds[k], turn)
	if at < 0 {
		return false
	}
	q.kinds[k] = slices.Delete(q.kinds[k], at, at+1)
	l.waiting--
	if len(q.kinds[kindBlob])+len(q.kinds[kindShort]) == 0 {
		delete(l.blocks, q.block)
		l.turns = slices.DeleteFunc(l.turns, func(other *blockQueue) bool { return other == q })
	}
	return true
}

// noteWait counts a wait, and logs one that is noticeable.
func (l *connectionLimit) noteWait(wait time.Duration) {
	l.waited(wait)
	if wait < noticeableWait {
		return
	}
	if l.crowded.Bad() {
		_, waiting := l.load()
		l.logger.Info("requests wait for a connection to the upstream", "upstream", l.host, "waiting", waiting,
			"error", &CrowdedError{Host: l.host, Limit: l.size, Wait: wait})
	}
	l.crowded.Good() // unless more of them follow
}

// load returns how many connections carry a request, and how many requests wait.
func (l *connectionLimit) load() (busy, waiting int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.busy, l.waiting
}

// hold lets an answer leave the limit with the end of its body. A refusal or a redirect
// leaves at once: its body is short, and the request that follows from it must not wait
// for its own predecessor.
func hold(resp *http.Response, leave func()) {
	if resp.StatusCode/100 != 2 || resp.Body == http.NoBody || resp.Request.Method == http.MethodHead {
		leave()
		return
	}
	resp.Body = &heldBody{resp.Body, leave}
}

// heldBody is a body that has a connection.
type heldBody struct {
	io.ReadCloser
	leave func()
}

func (b *heldBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.leave()
	}
	return n, err
}

func (b *heldBody) Close() error {
	defer b.leave()
	return b.ReadCloser.Close()
}

// blockKey is the key of the name of a block in a context, visitKey that of a visit.
type (
	blockKey struct{}
	visitKey struct{}
)

// inBlock names the block that a request is for.
func inBlock(ctx context.Context, block string) context.Context {
	if block == "" {
		return ctx
	}
	return context.WithValue(ctx, blockKey{}, block)
}

// visit is the part of a call that its waits for connections need.
type visit struct {
	block  string
	blob   bool
	timer  *headerTimer
	waited time.Duration // of the present try
	// forToken is set for a request for a token. Calls of several blocks may wait for it, so it
	// waits as none of them does.
	forToken bool
}

// forToken returns the context of a request for a token that a call needs.
func forToken(ctx context.Context) context.Context {
	return context.WithValue(ctx, visitKey{}, &visit{timer: visitOf(ctx).timer, forToken: true})
}

// visitOf returns the visit of a call, and an empty one for requests that are none.
func visitOf(ctx context.Context) *visit {
	if v, ok := ctx.Value(visitKey{}).(*visit); ok {
		return v
	}
	return &visit{}
}

func (v *visit) noteWait(wait time.Duration) { v.waited += wait }

// headerTimer ends a call whose answer does not begin in time. The time stands still while
// the call waits for a connection: that is no fault of the registry.
type headerTimer struct {
	timer *time.Timer
	left  time.Duration
	since time.Time
}

func newHeaderTimer(limit time.Duration, end func()) *headerTimer {
	return &headerTimer{timer: time.AfterFunc(limit, end), left: limit, since: time.Now()}
}

func (t *headerTimer) pause() {
	if t != nil && t.timer.Stop() {
		t.left -= time.Since(t.since)
	}
}

func (t *headerTimer) resume() {
	if t != nil {
		t.since = time.Now()
		t.timer.Reset(max(t.left, 0))
	}
}
