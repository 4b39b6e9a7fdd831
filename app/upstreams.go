package app

import (
	"fmt"
	"log/slog"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/tokencache"
	"github.com/weirhq/weir/upstream"
)

// Upstreams are the clients of a configuration's upstreams without a mirror
// around them. Their tokens are shared with no other process.
type Upstreams struct {
	// Specs are the namespaces, in the order of the configuration.
	Specs []namespace.Spec
	// Clients are the clients of each namespace, in the order of its upstreams.
	// Equal upstreams have the same client.
	Clients [][]*upstream.Client

	tokens  *tokencache.Cache
	clients *clients
}

// OpenUpstreams makes the clients of a validated configuration. It contacts no
// upstream. It returns an error if a file that an upstream names cannot be used.
func OpenUpstreams(cfg *config.Config) (*Upstreams, error) {
	m := &mirror{log: slog.New(slog.DiscardHandler)}
	m.tokens = tokencache.New(tokencache.NewMemory(tokensInMemory), nil)
	m.clients = newClients(m.tokens, nil, m.log)
	u := &Upstreams{tokens: m.tokens, clients: m.clients}
	next := m.clients.begin()
	if err := u.open(m, cfg, next); err != nil {
		m.clients.drop(next)
		u.Close()
		return nil, err
	}
	m.clients.commit(next)
	return u, nil
}

func (u *Upstreams) open(m *mirror, cfg *config.Config, next generation) error {
	for _, repo := range cfg.Namespaces {
		spec, err := m.spec(cfg, repo, next)
		if err != nil {
			return fmt.Errorf("repository.%q: %w", repo.Key, err)
		}
		u.Specs = append(u.Specs, spec)
		var members []*upstream.Client
		for _, one := range repo.Upstreams {
			client, err := m.clients.get(next, one, int64(cfg.Global.MaxManifestSize))
			if err != nil {
				return err
			}
			members = append(members, client)
		}
		u.Clients = append(u.Clients, members)
	}
	return nil
}

// Close ends the clients.
func (u *Upstreams) Close() {
	u.clients.close()
	u.tokens.Close()
}
