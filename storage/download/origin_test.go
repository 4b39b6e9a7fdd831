package download_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
)

// origin is a scripted upstream: it delivers body, and notes what was asked.
type origin struct {
	body    []byte
	noSize  bool
	refuse  error               // answer to Open
	step    chan int            // when set, each receive lets that many bytes pass
	failAt  int                 // offset of a read error; 0: none
	corrupt func([]byte) []byte // what this delivers instead, until rejected
	better  bool                // after a rejection another one would deliver

	mu       sync.Mutex
	opens    []string
	rejected int
	closed   int
}

func (o *origin) source(repo storage.RepoID) download.Source {
	return download.Source{Repository: repo, Open: o.open}
}

func (o *origin) open(ctx context.Context, offset, length int64) (*download.Stream, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	asked := fmt.Sprintf("%d+%d", offset, length)
	if oci.IsContinuation(ctx) {
		asked += " of a body under way"
	}
	o.opens = append(o.opens, asked)
	if o.refuse != nil {
		return nil, o.refuse
	}
	body := o.body
	if o.corrupt != nil && o.rejected == 0 {
		body = o.corrupt(bytes.Clone(body))
	}
	size := int64(len(body))
	end := size
	if length >= 0 {
		end = min(end, offset+length)
	}
	if o.noSize {
		size = -1
	}
	return &download.Stream{
		ReadCloser: &flow{ctx: ctx, origin: o, rest: body[offset:end], at: int(offset)},
		Size:       size,
		Origin:     repoHost,
		Proves:     true,
		Reject:     o.reject,
	}, nil
}

const repoHost = "upstream.test:443"

func (o *origin) reject() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rejected++
	return o.better
}

func (o *origin) asked() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string{}, o.opens...)
}

// flow is one stream of an origin.
type flow struct {
	ctx     context.Context
	origin  *origin
	rest    []byte
	at      int
	allowed int
}

var errCut = errors.New("connection reset")

func (s *flow) Read(p []byte) (int, error) {
	if s.origin.failAt > 0 && s.at >= s.origin.failAt {
		return 0, errCut
	}
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := min(len(p), len(s.rest), 64<<10)
	if s.origin.step != nil {
		for s.allowed == 0 {
			select {
			case allowed, open := <-s.origin.step:
				if s.allowed = allowed; !open { // all of it may pass
					s.allowed = len(s.origin.body)
				}
			case <-s.ctx.Done():
				return 0, s.ctx.Err()
			}
		}
		n = min(n, s.allowed)
		s.allowed -= n
	}
	if s.origin.failAt > 0 {
		n = min(n, s.origin.failAt-s.at)
	}
	copy(p, s.rest[:n])
	s.rest, s.at = s.rest[n:], s.at+n
	return n, nil
}

func (s *flow) Close() error {
	s.origin.mu.Lock()
	s.origin.closed++
	s.origin.mu.Unlock()
	return nil
}
