package upstream

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxConnectionAge is how long connections get new requests. A busy one would
	// otherwise live for ever, and never follow a change of the host's DNS.
	maxConnectionAge = 5 * time.Minute
	// maxSilence is how long a connection that was used before may be silent after a
	// request. A router that has forgotten the connection drops all packets, which
	// looks like a slow registry.
	maxSilence = 10 * time.Second
	// slowTime is how long a registry that proved to be slow gets no second requests.
	slowTime = 10 * time.Minute
)

// connections are the connections to a group of hosts: those of one http.Transport,
// which is replaced before they get too old, or when one of them is silent. A request
// that is under way ends on its own connection.
type connections struct {
	newTransport func() *http.Transport
	silence      time.Duration
	logger       *slog.Logger
	limit        *connectionLimit // nil: none

	mu        sync.Mutex
	current   *http.Transport
	since     time.Time // of current
	slowUntil time.Time // silence means nothing until then
}

func newConnections(o Options, newTransport func() *http.Transport) *connections {
	c := &connections{
		newTransport: newTransport,
		// A short read timeout leaves time for the second request, too.
		silence: min(maxSilence, o.ReadTimeout/3),
		logger:  loggerOr(o.Logger),
	}
	c.current, c.since = c.newTransport(), time.Now()
	return c
}

// transport returns the transport for a new request.
func (c *connections) transport() *http.Transport {
	c.mu.Lock()
	current := c.current
	young := time.Since(c.since) < maxConnectionAge
	c.mu.Unlock()
	if young {
		return current
	}
	return c.replace(current)
}

// replace returns a transport that is newer than old.
func (c *connections) replace(old *http.Transport) *http.Transport {
	c.mu.Lock()
	current := c.current
	if current == old { // else another request has replaced it
		current = c.newTransport()
		c.current, c.since = current, time.Now()
	}
	c.mu.Unlock()
	// Busy connections close when they become idle.
	old.CloseIdleConnections()
	return current
}

func (c *connections) closeIdle() {
	c.mu.Lock()
	current := c.current
	c.mu.Unlock()
	current.CloseIdleConnections()
}

// answer is the outcome of a request.
type answer struct {
	resp      *http.Response
	err       error
	connected bool     // there was a connection to send the request on
	from      net.Addr // the other end of that connection; nil: none
	second    bool     // of the second request
}

// send sends a GET or HEAD, or a request for a token, when the limit admits it.
func (c *connections) send(req *http.Request) answer {
	leave, err := c.limit.enter(req.Context())
	if err != nil {
		return answer{err: err}
	}
	a := c.sendAdmitted(req)
	if a.resp == nil {
		leave()
	} else if c.limit != nil {
		hold(a.resp, leave)
	}
	return a
}

// sendAdmitted sends a request. If it gets a connection that was used before, and there is
// no byte of an answer for a while, sendAdmitted repeats it on a new connection, once, and
// returns the answer that comes first. The first request goes on meanwhile: the registry
// may be slow, such as a proxy that fetches the content itself. If no further connection is
// free then, the second request takes the place of the first one.
func (c *connections) sendAdmitted(req *http.Request) answer {
	answers := make(chan answer, 2) // room for both, so that neither waits for a reader
	silent := make(chan struct{}, 1)
	current := c.transport()
	cancelFirst := start(req, current, answers, false, c.watch(silent))
	select {
	case a := <-answers:
		return a
	case <-silent:
	}
	select {
	case a := <-answers: // it came at the last moment
		return a
	default:
	}
	leave, ok := c.limit.tryEnter()
	if !ok {
		return c.sendInstead(req, current, cancelFirst, answers)
	}
	defer leave() // one of the two requests ends here
	cancelSecond := start(req, c.replace(current), answers, true, nil)
	a := <-answers
	if a.err != nil {
		// The other one may still succeed. If both fail, the error of the new connection says more
		// about the present.
		if b := <-answers; b.err == nil || b.second {
			a = b
		}
		return a
	}
	if a.second {
		c.logger.Info("a connection went silent, but a new one works. Check the idle timeouts of NAT and firewalls in front of the upstream", "upstream", req.URL.Host)
		cancelFirst()
	} else {
		c.noteSlow()
		cancelSecond()
	}
	go func() {
		if late := <-answers; late.resp != nil {
			late.resp.Body.Close()
		}
	}()
	return a
}

// sendInstead ends the first request, and then repeats it on a new connection.
func (c *connections) sendInstead(req *http.Request, old *http.Transport, cancelFirst context.CancelFunc, answers chan answer) answer {
	cancelFirst()
	if first := <-answers; first.resp != nil {
		first.resp.Body.Close()
	}
	began := time.Now()
	start(req, c.replace(old), answers, true, nil)
	a := <-answers
	if a.err == nil && time.Since(began) >= c.silence {
		c.noteSlow() // the new connection was silent as well
	}
	return a
}

// watch returns a timer that reports silence, and nil if the hosts are known to be slow.
// It does not run yet.
func (c *connections) watch(silent chan<- struct{}) *watch {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Now().Before(c.slowUntil) {
		return nil
	}
	timer := time.AfterFunc(c.silence, func() {
		select {
		case silent <- struct{}{}:
		default: // the request has moved to another connection, and that was reported before
		}
	})
	timer.Stop()
	return &watch{timer, c.silence}
}

// noteSlow notes that a request was answered after its connection had seemed silent.
func (c *connections) noteSlow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slowUntil = time.Now().Add(slowTime)
}

// watch waits for the first byte of an answer. A nil watch waits for nothing.
type watch struct {
	timer *time.Timer
	limit time.Duration
}

func (w *watch) begin() {
	if w != nil {
		w.timer.Reset(w.limit)
	}
}

func (w *watch) end() {
	if w != nil {
		w.timer.Stop()
	}
}

// start sends a request in the background. The request ends with cancel or with its
// context, which outlives the body of its answer.
func start(req *http.Request, transport *http.Transport, answers chan<- answer, second bool, w *watch) (cancel context.CancelFunc) {
	var conn atomic.Pointer[net.Conn]
	ctx, cancel := context.WithCancel(req.Context())
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		// It is called again if the transport itself repeats the request.
		GotConn: func(info httptrace.GotConnInfo) {
			conn.Store(&info.Conn)
			if info.Reused {
				w.begin()
			} else {
				w.end()
			}
		},
		GotFirstResponseByte: w.end,
	})
	req = req.WithContext(ctx)
	if req.GetBody != nil { // each request reads its own
		req.Body, _ = req.GetBody() // it does not fail
	}
	go func() {
		resp, err := transport.RoundTrip(req)
		w.end()
		a := answer{resp: resp, err: err, second: second}
		if used := conn.Load(); used != nil {
			a.connected, a.from = true, (*used).RemoteAddr()
		}
		answers <- a
	}()
	return cancel
}
