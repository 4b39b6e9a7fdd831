package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/weirhq/weir/app"
	"github.com/weirhq/weir/oci"
)

const (
	// attempts is how often something is asked for before it counts as failed.
	attempts = 4
	// firstPause is before the second attempt; it doubles from then on. A
	// mirror that wants a longer one gets it, up to maxPause.
	firstPause = time.Second
	maxPause   = time.Minute
	// firstLook and lastLook are the pauses between two looks at whether
	// something has been stored.
	firstLook = 20 * time.Millisecond
	lastLook  = time.Second
	// headerTimeout bounds the wait for an answer to begin: the mirror may
	// have to wait for its upstream, or for a place among its downloads.
	headerTimeout = 10 * time.Minute
	// idleTimeout is how long an unused connection is kept: as long as the mirror
	// keeps its end.
	idleTimeout = 2 * time.Minute
)

// final is a failure that another attempt would not mend.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// refusal is an answer of a mirror that is an error.
type refusal struct {
	status     int
	message    string
	retryAfter time.Duration
}

// Error returns the mirror's own words, which say more than the status.
func (r refusal) Error() string {
	if r.message == "" {
		return fmt.Sprintf("the mirror answers %d %s", r.status, http.StatusText(r.status))
	}
	return fmt.Sprintf("%d: %s", r.status, r.message)
}

// newWarmClient returns a client for many requests to one mirror at once.
func newWarmClient(connections int) *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DisableCompression:    true, // bytes are to come as they are stored
		MaxIdleConnsPerHost:   connections,
		IdleConnTimeout:       idleTimeout,
		ResponseHeaderTimeout: headerTimeout,
	}}
}

// send makes one request below the repository. Every answer but a success is an
// error. The caller closes the body.
func (s mirrorSource) send(ctx context.Context, method, path string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.repository.JoinPath(path).String(), nil)
	if err != nil {
		return nil, final{err}
	}
	for name, values := range header {
		req.Header[name] = values
	}
	version, _ := app.Version()
	req.Header.Set("User-Agent", "weir-warm/"+version)
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent {
		return resp, nil
	}
	defer resp.Body.Close()
	r := refusal{status: resp.StatusCode}
	_, r.message = oci.ReadError(resp.Body)
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		r.retryAfter = time.Duration(seconds) * time.Second
	}
	if r.status < http.StatusInternalServerError && r.status != http.StatusTooManyRequests {
		return nil, final{r}
	}
	return nil, r
}

// ping asks whether there is a registry.
func (s mirrorSource) ping(ctx context.Context) error {
	resp, err := s.send(ctx, http.MethodGet, "/", nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// insist attempts something until it succeeds or there is no hope in it.
func insist(ctx context.Context, attempt func() error) error {
	pause := firstPause
	for n := 1; ; n++ {
		err := attempt()
		if err == nil || ctx.Err() != nil {
			return err
		}
		if f, ok := errors.AsType[final](err); ok {
			return f.error
		}
		wait := pause
		if r, ok := errors.AsType[refusal](err); ok {
			wait = max(wait, r.retryAfter)
		}
		if n == attempts || wait > maxPause {
			return err
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		pause *= 2
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
