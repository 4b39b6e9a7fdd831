package app

import (
	"fmt"
	"log/slog"

	"github.com/weirhq/weir/check"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/tokencache"
	"github.com/weirhq/weir/upstream"
)

// Upstreams are the clients of a configuration's upstreams without a mirror
// around them. Their tokens are shared with no other process.
type Upstreams struct {
	Specs   []namespace.Spec     // in the order of the configuration
	Clients [][]*upstream.Client // of each namespace, in the order of its upstreams; equal upstreams have the same one

	tokens  *tokencache.Cache
	clients *clients
}

// OpenUpstreams makes the clients of a validated configuration. It contacts no
// upstream. It returns an error if a file that an upstream names cannot be used.
func OpenUpstreams(cfg *config.Config) (*Upstreams, error) { return openUpstreams(cfg, nil, nil) }

// openUpstreams is OpenUpstreams with the certificates of a trial, nil: those of the configuration, and
// its way to connect, nil: the usual one.
func openUpstreams(cfg *config.Config, given *tlsFiles, dial dialer) (*Upstreams, error) {
	tokens := tokencache.New(tokencache.NewMemory(tokensInMemory), nil)
	u := &Upstreams{tokens: tokens, clients: newClients(tokens, nil, nil, via.NewID(), slog.New(slog.DiscardHandler))}
	u.clients.given, u.clients.dial = given, dial
	next := make(clientSet)
	blocks, err := translate(cfg, u.clients, next)
	u.clients.commit(next) // also of a failure, so that Close closes them
	if err != nil {
		u.Close()
		return nil, err
	}
	for _, block := range blocks {
		u.Specs, u.Clients = append(u.Specs, block.spec), append(u.Clients, block.clients)
	}
	return u, nil
}

// Close ends the clients.
func (u *Upstreams) Close() {
	u.clients.close()
	u.tokens.Close()
}

// Targets returns all upstreams of the configuration that they are of, in its order.
func (u *Upstreams) Targets(cfg *config.Config) []check.Target {
	given := u.clients.given != nil && len(u.clients.given.certificate.content) > 0
	var targets []check.Target
	for n, repo := range cfg.Namespaces {
		for i, one := range repo.Upstreams {
			targets = append(targets, check.Target{
				Namespace: repo.Key, Key: fmt.Sprintf("repository.%q.upstream[%d]", repo.Key, i),
				URL: one.URL.Std(), Client: u.Clients[n][i], Offline: repo.Offline,
				Credentials: one.Username != "" || one.CredentialHelper != "", Certificate: given || one.ClientCertificate != "",
			})
		}
	}
	return targets
}
