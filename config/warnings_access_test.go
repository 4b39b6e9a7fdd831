package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// Rules by which no client may pull, or more clients than it seems, are warned about.
func TestAccessWarnings(t *testing.T) {
	cert, _ := certificate(t)
	users := write(t, "htpasswd", "bob:"+secretHash+"\n")
	const (
		everywhere = "[server]\nbind_address = \"0.0.0.0\"\n"
		audience   = "required_audience = \"weir\"\n"
		robot      = "[auth.identity.ci]\nusername = \"robot\"\npassword = \"" + secretHash + "\"\n"
		other      = "[repository.other]\n[[repository.other.upstream]]\nurl = \"https://other.example\"\n"
	)
	file := "[auth]\nhtpasswd = " + quote(users) + "\n"
	allow := func(entries string) string { return "[repository.\"docker.io\"]\nallow = [" + entries + "]\n" }
	for name, c := range map[string]struct {
		text string
		want []string // each in one warning; none: no warning
	}{
		"known users":                  {file + alice + allow(`"alice", "bob", "authenticated", "cidr:10.0.0.0/8"`), nil},
		"an unknown one":               {file + alice + allow(`"alice", "bobby"`), []string{`no user has these names`, `"bobby" in repository."docker.io".allow[1] (`}},
		"no users at all":              {allow(`"alice"`), []string{`"alice" in repository."docker.io".allow[0] (`}},
		"a file without users":         {"[auth]\nhtpasswd = " + quote(write(t, "empty", "# none yet\n")) + "\n", []string{"the file has no users", "auth.htpasswd ("}},
		"names of Docker Hub":          {"[repository.\"docker.io\"]\nimages = [\"!alpine\", \"library/*\", \"{a/b,c}\"]\n", []string{"Write library/NAME", `"!alpine" in repository."docker.io".images[0] (`}},
		"all names of Docker Hub":      {"[repository.\"docker.io\"]\nimages = [\"**\", \"!library/alpine\"]\n", nil},
		"one name of another registry": {other + "[repository.elsewhere]\nimages = [\"app\"]\n[[repository.elsewhere.upstream]]\nurl = \"https://elsewhere.example\"\n", nil},
		"a user in capitals":           {file + allow(`"Bob"`), []string{`"Bob" in `}},
		"a name of a table":            {robot + allow(`"ci"`), []string{`"ci" in `, `where the user is "robot"`}},
		"in a group":                   {file + "groups = { ops = [\"bob\", \"carol\"] }\n" + allow(`"@ops"`), []string{`"carol" in auth.groups.ops[1] (`}},
		"many":                         {file + "groups = { ops = [" + strings.Repeat(`"x", `, 25) + "] }\n", []string{"and 15 more"}},
		"certificates that are asked":  {"[server.tls]\nself_signed = true\nclient_ca_bundle = " + quote(cert) + "\n" + allow(`"cert:node-*"`), nil},
		"certificates without TLS":     {allow(`"cert:node-*"`), []string{`no client is asked for a certificate`, `"cert:node-*" in repository."docker.io".allow[0] (`, "Set server.tls.client_ca_bundle"}},
		"certificates without a CA":    {"[server.tls]\nself_signed = true\n[auth.groups]\nnodes = [\"cert:*\"]\n", []string{`"cert:*" in auth.groups.nodes[0] (`}},
		"an expired user":              {alice + "expires = \"2020-01-01\"\n", []string{"these users have expired", "auth.identity.alice ("}},
		"one that is valid":            {alice + "expires = \"2999-01-01\"\n", nil},
		"passwords without TLS":        {everywhere + file, []string{"clients send passwords or tokens to the mirror without TLS", "server.bind_address ("}},
		"tokens without TLS":           {everywhere + "[auth.oidc.ci]\nissuer = \"https://sso.example\"\n" + audience, []string{"without TLS"}},
		"passwords over TLS":           {everywhere + file + "[server.tls]\nself_signed = true\n", nil},
		"passwords behind a proxy":     {everywhere + "trusted_proxies = [\"10.0.0.7\"]\n" + file, nil},
		"passwords on this machine":    {file, nil},
		"no passwords, without TLS":    {everywhere, nil},
		"tokens without users":         {service, []string{"no client needs a token", "auth.token_service ("}},
		"tokens for users":             {service + alice, nil},
		"tokens of half a minute":      {service + "ttl_secs = 30\n" + alice, []string{"clients reuse a token for at least a minute", "auth.token_service.ttl_secs ("}},
		"tokens of a minute":           {service + "ttl_secs = 60\n" + alice, nil},
		"tokens for an upstream":       {service + "[repository.\"docker.io\"]\nauthorize = \"upstream\"\n", nil},
		"any audience":                 {"[auth.oidc.ci]\nissuer = \"https://sso.example\"\n", []string{"tokens for other services are accepted", "auth.oidc.ci ("}},
		"one audience":                 {"[auth.oidc.ci]\nissuer = \"https://sso.example\"\n" + audience, nil},
		"a public issuer":              {github + audience, []string{"anyone can get a token of https://token.actions.githubusercontent.com", `repository."docker.io" (`, "repository_owner"}},
		"another public issuer":        {"[auth.oidc.lab]\nissuer = \"https://gitlab.com\"\n" + audience, []string{"anyone can get a token of https://gitlab.com"}},
		"of one that lists it":         {github + audience + allow(`"oidc:github"`), []string{"anyone can get a token"}},
		"of one with a group of it":    {github + audience + "[auth.groups]\nci = [\"oidc:github\"]\n" + allow(`"@ci"`), []string{"anyone can get a token"}},
		"of one that lists others":     {github + audience + file + allow(`"bob"`), nil},
		"a rule about a claim":         {github + audience + "[access_policy]\nrules = [\"identity.oidc.claims['repository_owner'] == 'acme'\"]\n", nil},
		"rules of one block alone":     {github + audience + "[repository.\"docker.io\".access_policy]\ndefault = \"deny\"\n" + other, []string{"anyone can get a token", "repository.other ("}},
		"open to all anyway":           {github + audience + "[auth]\nanonymous = true\n", nil},
		"rights of each client":        {github + audience + "[repository.\"docker.io\"]\nauthorize = \"upstream\"\n", nil},
	} {
		config := mustLoad(t, docker+c.text)
		if err := config.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		warnings := config.accessWarnings()
		text := strings.Join(warnings, "\n")
		if len(warnings) != min(len(c.want), 1) {
			t.Errorf("%s: %d warnings: %s", name, len(warnings), text)
		}
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %s, want %s", name, text, want)
			}
		}
		if all := strings.Join(config.Warnings(), "\n"); !strings.Contains(all, text) {
			t.Errorf("%s: not among the warnings: %s", name, all)
		}
	}
	// Each entry has its file and line.
	c := mustLoad(t, docker+allow(`"alice"`))
	if text := strings.Join(c.accessWarnings(), ""); !strings.Contains(text, fmt.Sprintf("%s:5)", filepath.Base(c.source.files[0]))) {
		t.Error(text)
	}
}

// Blocks that are hidden from some clients, but not from the metrics, are warned about.
func TestMetricsTellOfHiddenBlocks(t *testing.T) {
	const (
		allow   = "[repository.\"docker.io\"]\nallow = [\"alice\"]\n"
		policy  = "[repository.\"docker.io\".access_policy]\ndefault = \"deny\"\nrules = [\"identity.username == 'alice'\"]\n"
		metrics = "[access_policy]\ndefault = \"allow\"\nrules = [\"request.action == 'metrics' && identity.username != 'alice'\"]\n"
		tags    = "[repository.\"docker.io\".access_policy]\ndefault = \"allow\"\nrules = [\"request.action == 'list-tags'\"]\n"
		webhook = "[global]\nauthorization_webhook = \"opa\"\n[auth.webhook.opa]\nurl = \"http://localhost:1\"\ntimeout_ms = 100\n"
		other   = "[repository.other]\n[[repository.other.upstream]]\nurl = \"https://other.example\"\n"
	)
	for name, c := range map[string]struct {
		text string
		want bool
	}{
		"nothing hidden":               {alice, false},
		"a list":                       {alice + allow, true},
		"a list of all users":          {alice + "[repository.\"docker.io\"]\nallow = [\"authenticated\"]\n", false},
		"a list of networks":           {"[repository.\"docker.io\"]\nallow = [\"cidr:10.0.0.0/8\"]\n", true},
		"one of two blocks":            {alice + allow + other, true},
		"a policy of the block":        {alice + policy, true},
		"a rule about lists of tags":   {alice + tags, false},
		"a policy of all requests":     {alice + "[access_policy]\ndefault = \"deny\"\nrules = [\"identity.username == 'alice'\"]\n" + allow, false},
		"a rule about other actions":   {alice + "[access_policy]\ndefault = \"allow\"\nrules = [\"request.action == 'ui-api'\"]\n" + allow, true},
		"a rule about metrics":         {alice + metrics + allow, false},
		"metrics for users alone":      {alice + "[access_policy]\ndefault = \"deny\"\nrules = [\"identity.username != null\"]\n" + allow, true},
		"a webhook":                    {alice + webhook + allow, false},
		"an address of operators":      {alice + "[server]\nadmin_address = \"127.0.0.1:9000\"\n" + allow, false},
		"anonymous clients":            {alice + "[auth]\nanonymous = true\n" + allow, true},
		"the rights of each client":    {alice + "[repository.\"docker.io\"]\nauthorize = \"upstream\"\n", false},
		"names that are hidden to all": {alice + "[repository.\"docker.io\"]\nimages = [\"team/**\"]\n", false},
	} {
		config := mustLoad(t, docker+c.text)
		if err := config.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		warned := strings.Contains(strings.Join(config.Warnings(), "\n"), "every user may read /metrics")
		if told := config.toldByMetrics(); warned != c.want || (len(told) == 1) != c.want {
			t.Errorf("%s: %q, warned %t", name, told, warned)
		}
	}
}
