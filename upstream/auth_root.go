package upstream

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// rootPause is how long an answer of the API's root without a challenge counts: a
// registry that gets a login is noticed, and missing content costs no second request.
const rootPause = 10 * time.Minute

// maxQuiet bounds the clients of which a silent root is remembered. A lost one costs a
// request.
const maxQuiet = 1024

// rootInquiry is the question for the challenge of the API's root. One request at
// a time asks it.
type rootInquiry struct {
	slot chan struct{} // holds a value while a request asks
	// quiet holds the clients to whose credentials the root gave no challenge, and the
	// moment from which on it may be asked again. A client without a password cannot
	// answer a challenge that another client can.
	quiet *simplelru.LRU[string, time.Time] // guarded by slot
}

func newRootInquiry() rootInquiry {
	quiet, err := simplelru.NewLRU[string, time.Time](maxQuiet, nil)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return rootInquiry{slot: make(chan struct{}, 1), quiet: quiet}
}

var errRootElsewhere = errors.New("the root of the API is on another host")

// rootChallenge returns the challenge of the API's root (distribution-spec end-1).
// Without one that can be answered, it returns false.
func (t *authTransport) rootChallenge(ctx context.Context) (challenge, bool) {
	select {
	case t.root.slot <- struct{}{}:
		defer func() { <-t.root.slot }()
	case <-ctx.Done():
		return challenge{}, false
	}
	if known, ok := t.remembered.Get(t.rootKey()); ok {
		return known, true // another request has asked meanwhile
	}
	if until, _ := t.root.quiet.Get(t.login.client); time.Now().Before(until) {
		return challenge{}, false
	}
	pause := func(d time.Duration) { t.root.quiet.Add(t.login.client, time.Now().Add(d)) }
	req, err := t.service.client.rootRequest(ctx)
	if err != nil {
		return challenge{}, false
	}
	// Some registries redirect /v2/ to /v2. Another host's challenge is not theirs.
	client := t.service.client
	resp, err := followRedirects(req, client.maxRedirects, func(req *http.Request) (*http.Response, error) {
		if !client.ownAPI(req.URL) {
			return nil, errRootElsewhere
		}
		return t.base.RoundTrip(req)
	})
	if err != nil {
		// A redirect that leads nowhere stays one. After a broken connection, the next
		// request asks again.
		if !isA[*transportError](err) {
			pause(rootPause)
		}
		return challenge{}, false // the first answer counts
	}
	defer discard(resp.Body)
	// A registry that allows anonymous requests may answer 200 and challenge as well.
	if found, ok := t.choose(resp); ok {
		t.remembered.Add(t.rootKey(), found)
		return found, true
	}
	// A root that is limited or broken says nothing about its challenge.
	switch failure := t.service.client.refusal(resp); {
	case failure.RetryAfter > 0:
		pause(failure.RetryAfter)
	case resp.StatusCode < http.StatusInternalServerError:
		pause(rootPause)
	}
	return challenge{}, false
}
