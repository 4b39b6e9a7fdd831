package access

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
)

const (
	// rotationPause is the time between two readings of the keys for tokens with unknown
	// keys: such tokens cost nothing to make.
	rotationPause = time.Minute
	// failurePause is the time after which an issuer that was unavailable is asked again. Logins
	// work again that soon.
	failurePause = 10 * time.Second
	// maxKeySet bounds the documents of an issuer. Key sets have some KiB.
	maxKeySet = 1 << 20
	// maxKeys bounds the keys of an issuer, since each may be tried for a token.
	maxKeys = 64
	// maxRSA bounds the bits of an RSA key, and with them the time of a verification.
	maxRSA = 8192
	minRSA = 2048
)

// key is a public key of an issuer.
type key struct {
	id     string // empty: it has none
	public crypto.PublicKey
}

// keys are the public keys of an issuer. They are read when they are needed, and again
// after a time, and at most once a minute for tokens with a key that is not among them.
type keys struct {
	opts IssuerOptions

	mu      sync.Mutex // not held while the issuer is asked
	known   []key      // nil: they were never read
	read    time.Time  // when
	tried   time.Time  // when they were last asked for
	failure error      // of the last try
	reading chan struct{}
}

// forToken returns the keys that a token may be signed with, by the name of its key. It
// returns an *[IssuerError] if none were ever read, and the cause of ctx.
func (k *keys) forToken(ctx context.Context, id string) (*oidc.StaticKeySet, error) {
	for {
		k.mu.Lock()
		set, timeout := k.usable(id), k.due(id)
		wait := k.reading
		if timeout > 0 && wait == nil {
			wait = make(chan struct{})
			k.reading, k.tried = wait, time.Now()
			// The reading serves all that wait, also if some of them leave.
			go k.renew(context.WithoutCancel(ctx), timeout, wait)
		}
		failure := k.failure
		known := k.known != nil
		k.mu.Unlock()
		switch {
		case len(set.PublicKeys) > 0: // a renewal goes on behind it
			return set, nil
		case wait != nil: // also for a token with an unknown key: it may be among those that come
		case !known:
			return nil, &IssuerError{k.opts.Name, failure}
		default:
			return nil, &CredentialsError{MethodOIDC, k.opts.Name + ": the key of the token is unknown"}
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// usable returns the known keys by a name. A token may leave its key unnamed.
func (k *keys) usable(id string) *oidc.StaticKeySet {
	set := &oidc.StaticKeySet{}
	for _, one := range k.known {
		if id == "" || one.id == "" || one.id == id {
			set.PublicKeys = append(set.PublicKeys, one.public)
		}
	}
	return set
}

// due returns the time that reading the keys may take, or 0 if they need not or must not
// be read now.
func (k *keys) due(id string) time.Duration {
	since := time.Since(k.tried)
	switch {
	case k.known == nil || k.failure != nil && time.Since(k.read) > k.opts.Refresh:
		if k.tried.IsZero() || since >= failurePause {
			return k.opts.Timeout
		}
	case time.Since(k.read) > k.opts.Refresh:
		return k.opts.Timeout
	case len(k.usable(id).PublicKeys) > 0:
	case k.failure != nil && since >= failurePause, since >= rotationPause:
		return k.opts.RotationTimeout
	}
	return 0
}

// renew reads the keys and wakes all that wait for them. Keys that were read before stay
// if the issuer is unavailable.
func (k *keys) renew(ctx context.Context, timeout time.Duration, done chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	found, err := k.fetch(ctx)
	k.mu.Lock()
	changed := (err == nil) != (k.failure == nil) || k.known == nil
	if k.failure = err; err == nil {
		k.known, k.read = found, time.Now()
	}
	k.reading = nil
	k.mu.Unlock()
	close(done)
	// Each further failure of an issuer that is unavailable would be the same line.
	switch {
	case err != nil && changed:
		k.opts.Logger.Warn("the keys of a token issuer cannot be read, so new keys are not accepted until this works. Check that the issuer is spelled as in its discovery document, and that this machine can reach it", "issuer", k.opts.Name, "error", err)
	case err == nil && changed:
		k.opts.Logger.Info("read the keys of a token issuer", "issuer", k.opts.Name, "keys", len(found))
	}
}

// fetch reads the keys from the issuer.
func (k *keys) fetch(ctx context.Context) ([]key, error) {
	address := k.opts.KeysURL
	if address == "" {
		var document struct {
			Issuer string `json:"issuer"`
			Keys   string `json:"jwks_uri"`
		}
		if err := k.get(ctx, strings.TrimSuffix(k.opts.URL, "/")+"/.well-known/openid-configuration", &document); err != nil {
			return nil, err
		}
		// Otherwise a document of one issuer would stand for another one (OpenID Connect
		// Discovery 1.0, section 4.3).
		if document.Issuer != k.opts.URL {
			return nil, fmt.Errorf("its discovery document names the issuer %q", document.Issuer)
		}
		address = document.Keys
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := k.get(ctx, address, &set); err != nil {
		return nil, err
	}
	found := []key{} // not nil: they were read
	for _, raw := range set.Keys[:min(len(set.Keys), maxKeys)] {
		var one jose.JSONWebKey
		// A set may have keys of kinds that are not known, or for encryption.
		if one.UnmarshalJSON(raw) == nil && (one.Use == "" || one.Use == "sig") && verifies(one.Key) {
			found = append(found, key{one.KeyID, one.Key})
		}
	}
	if len(found) == 0 {
		return nil, errors.New("it has no key that can verify a token")
	}
	return found, nil
}

// verifies reports whether a key is a public one of a fitting size.
func verifies(public any) bool {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() >= minRSA && k.N.BitLen() <= maxRSA
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	default:
		return false
	}
}

// get reads a document of the issuer.
func (k *keys) get(ctx context.Context, address string, into any) error {
	target, err := url.Parse(address)
	if err != nil || target.Scheme != "https" && target.Scheme != "http" || target.Host == "" {
		return errors.New("the address of its keys is not a URL")
	}
	own, _ := url.Parse(k.opts.URL) // validated
	if own.Scheme == "https" && target.Scheme != "https" {
		return errors.New("the address of its keys does not use TLS")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	// Another host has no business with the token for the issuer.
	if k.opts.Token != nil && target.Scheme == own.Scheme && target.Host == own.Host {
		token, err := k.opts.Token()
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := k.opts.Client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", target.Host, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxKeySet+1))
	if err != nil {
		return err
	}
	if len(body) > maxKeySet || json.Unmarshal(body, into) != nil {
		return fmt.Errorf("%s did not answer with JSON, or its answer is too long", target.Host)
	}
	return nil
}
