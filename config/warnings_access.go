package config

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/internal/hosts"
	"github.com/weirhq/weir/oci"
)

// maxNamed bounds the entries of a warning. A longer list has one cause.
const maxNamed = 10

// publicIssuers are issuers where anyone can open an account and get tokens for any audience.
func publicIssuers() []string {
	return []string{githubIssuer, "https://gitlab.com", "https://accounts.google.com", "https://agent.buildkite.com"}
}

// accessWarnings warns about access rules by which no client may pull, or more clients than it
// seems. None is an error: users and authorities may come later.
func (c *Config) accessWarnings() []string {
	var warnings []string
	warn := func(text string, entries []string) {
		if left := len(entries) - maxNamed; left > 0 {
			entries = append(entries[:maxNamed], fmt.Sprintf("and %d more", left))
		}
		if len(entries) > 0 {
			warnings = append(warnings, text+": "+strings.Join(entries, ", "))
		}
	}
	accounts, err := c.Auth.ReadHtpasswd() // an error is a problem of its own
	if c.Auth.Htpasswd != "" && err == nil && len(accounts) == 0 {
		warn("the file has no users, so nobody can log in with its passwords. Add users with htpasswd -B", []string{c.named([]string{"auth.htpasswd"})})
	}
	warn("each image of Docker Hub is below a name, official ones below library, so these globs match none. Write library/NAME", c.shortGlobs())
	unknown, uncertified := c.idleSubjects(accounts)
	warn("no user has these names, so these rules admit no client. Check auth.htpasswd and the username of [auth.identity.NAME]", unknown)
	warn("no client is asked for a certificate, so these rules admit no client. Set server.tls.client_ca_bundle", uncertified)
	warn("these users have expired, so their logins are refused. Remove them, or set a later date", c.expired(time.Now()))
	if c.Auth.TokenService != nil && !c.Auth.identifies() && !slices.ContainsFunc(c.Namespaces, Namespace.OnBehalf) {
		warn("there are no users, so no client needs a token. Set auth.htpasswd, [auth.identity.NAME] or [auth.oidc.NAME], or remove", []string{c.named([]string{"auth.token_service"})})
	}
	// A proxy that ends TLS is on this machine, or has to be trusted.
	if c.Server.TLS == nil && c.Auth.identifies() && !hosts.Loopback(c.Server.BindAddress) && len(c.TrustedProxies()) == 0 {
		warn("clients send passwords or tokens to the mirror without TLS, so anyone on the network path can read them. Set server.tls, or server.trusted_proxies if a proxy in front of the mirror terminates TLS",
			[]string{c.named([]string{"server.bind_address"})})
	}
	if t := c.Auth.TokenService; t != nil && t.TTL < leastKeptToken {
		warn("clients reuse a token for at least a minute, so their requests fail if it expires earlier. Set at least 60", []string{c.named([]string{"auth.token_service.ttl_secs"})})
	}
	var foreign []string
	for _, o := range c.Auth.OIDC {
		at := keyIn("auth.oidc", o.Key)
		if o.RequiredAudience == "" {
			foreign = append(foreign, c.named([]string{at}))
		}
		if open := c.openToTokens(o); slices.Contains(publicIssuers(), o.Issuer) && len(open) > 0 {
			warn("anyone can get a token of "+o.Issuer+", so anyone can pull from the repositories of "+c.named([]string{at})+
				`. Set an access_policy with a rule about a claim, such as identity.oidc.claims["repository_owner"] == "acme", for`, open)
		}
	}
	warn("tokens for other services are accepted, so these services can pull with the tokens that they get. Set required_audience", foreign)
	return warnings
}

// shortGlobs returns the globs of blocks for Docker Hub that can match no name: one of a single segment.
func (c *Config) shortGlobs() (entries []string) {
	for _, n := range c.Namespaces {
		hub := oci.IsDockerHub(n.Host) || slices.ContainsFunc(n.Upstreams, func(u Upstream) bool { return oci.IsDockerHub(u.URL.Std().Hostname()) })
		for i, glob := range n.Images {
			if hub && !strings.Contains(glob, "/") && !strings.Contains(glob, "**") {
				at := keyIn("repository", n.Key) + ".images"
				entries = append(entries, fmt.Sprintf("%q in %s", glob, c.named([]string{elementOf(at, i)})))
			}
		}
	}
	return entries
}

// toldByMetrics returns the key paths of the blocks that are hidden from a client without special
// rights, if such a client may read the metrics, whose labels have all blocks. A webhook for all requests
// decides about the metrics too. It is not asked here, so there is no warning.
func (c *Config) toldByMetrics() (keys []string) {
	if c.Server.AdminAddress != "" || c.Global.AuthorizationWebhook != "" {
		return nil
	}
	opts := access.Options{Anonymous: c.Auth.Anonymous, Policy: policyOf(c.Global.AccessPolicy)}
	for _, n := range c.Namespaces {
		block := access.Block{Key: n.Key, Policy: policyOf(n.AccessPolicy)}
		for _, text := range n.Allow {
			if subject, err := access.ParseSubject(text); err == nil { // else a problem of its own
				block.Allow = append(block.Allow, subject)
			}
		}
		opts.Blocks = append(opts.Blocks, block)
	}
	rules, err := access.New(opts)
	if err != nil { // a problem of its own
		return nil
	}
	// No list has this user, since no account can have the name.
	anyone := &access.Identity{User: "any:user"}
	if !c.Auth.identifies() {
		anyone = &access.Identity{Anonymous: true}
	}
	if !rules.Tells(context.Background(), anyone, access.Question{Action: access.ReadMetrics}, access.Presented{}) {
		return nil
	}
	for _, n := range c.Namespaces {
		if !rules.Shows(context.Background(), anyone, n.Key, "", access.Presented{}) {
			keys = append(keys, keyIn("repository", n.Key))
		}
	}
	return keys
}

func policyOf(p *AccessPolicy) *access.Policy {
	if p == nil {
		return nil
	}
	return &access.Policy{DefaultAllow: p.Default == PolicyAllow, Rules: p.Rules}
}

// idleSubjects returns the entries of groups and lists that stand for no client at the
// moment: names that no user has, and certificates if none is asked for.
func (c *Config) idleSubjects(accounts []access.Account) (unknown, uncertified []string) {
	users := make(map[string]bool)
	for _, account := range accounts {
		users[account.User] = true
	}
	owners := make(map[string]string) // the user of each identity
	for _, one := range c.Auth.Identities {
		users[one.Username], owners[one.Key] = true, one.Username
	}
	asked := c.Server.TLS != nil && c.Server.TLS.ClientCABundle != ""
	look := func(at string, texts []string) {
		for i, text := range texts {
			subject, err := access.ParseSubject(text)
			entry := fmt.Sprintf("%q in %s", text, c.named([]string{elementOf(at, i)}))
			user, isUser := subject.User()
			switch {
			case err != nil: // a problem of its own
			case isUser && !users[user]:
				// A table and its user may have different names, and lists name the user.
				if owner := owners[user]; owner != "" {
					entry += fmt.Sprintf(", where the user is %q", owner)
				}
				unknown = append(unknown, entry)
			case subject.IsCertificate() && !asked:
				uncertified = append(uncertified, entry)
			}
		}
	}
	for _, group := range slices.Sorted(maps.Keys(c.Auth.Groups)) {
		look(keyIn("auth.groups", group), c.Auth.Groups[group])
	}
	for _, n := range c.Namespaces {
		look(keyIn("repository", n.Key)+".allow", n.Allow)
	}
	return unknown, uncertified
}

// expired returns the users of the configuration whose time is over.
func (c *Config) expired(now time.Time) (entries []string) {
	for _, one := range c.Auth.Identities {
		if !one.Expires.IsZero() && !now.Before(one.Expires.Time) {
			entries = append(entries, c.named([]string{keyIn("auth.identity", one.Key)}))
		}
	}
	return entries
}

// openToTokens returns the blocks that any token of an issuer may pull from, whatever its
// claims.
func (c *Config) openToTokens(o OIDC) (entries []string) {
	lets := func(text string) bool { return text == "authenticated" || text == "oidc:"+o.Key }
	for _, n := range c.Namespaces {
		listed := len(n.Allow) == 0 || slices.ContainsFunc(n.Allow, func(text string) bool {
			group, isGroup := strings.CutPrefix(text, "@")
			return lets(text) || isGroup && slices.ContainsFunc(c.Auth.Groups[group], lets)
		})
		// Without credentials everyone may pull there too, and the upstream judges its clients itself.
		if listed && !c.Auth.Anonymous && !n.OnBehalf() && !c.ruled(n) {
			entries = append(entries, c.named([]string{keyIn("repository", n.Key)}))
		}
	}
	return entries
}
