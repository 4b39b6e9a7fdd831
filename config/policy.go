package config

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/weirhq/weir/access"
)

// AccessPolicy is a list of rules in CEL. If Default is "allow", a rule that matches
// denies; if it is "deny", a rule that matches allows.
type AccessPolicy struct {
	Default PolicyDefault `toml:"default"`
	Rules   []string      `toml:"rules"`
}

// PolicyDefault is the answer of a policy of which no rule matches.
type PolicyDefault string

// The answers.
const (
	PolicyAllow PolicyDefault = "allow"
	PolicyDeny  PolicyDefault = "deny"
)

// MarshalText returns the form that UnmarshalText reads.
func (p PolicyDefault) MarshalText() ([]byte, error) { return []byte(p), nil }

// UnmarshalText reads one of the answers.
func (p *PolicyDefault) UnmarshalText(text []byte) error {
	*p = PolicyDefault(text)
	if *p != PolicyAllow && *p != PolicyDeny {
		return errNotOneOf(string(text), []string{string(PolicyAllow), string(PolicyDeny)})
	}
	return nil
}

// mustMatch reports whether there is a policy by which a request is allowed only if a
// rule says so.
func (p *AccessPolicy) mustMatch() bool { return p != nil && p.Default == PolicyDeny }

// newAccessPolicy returns the defaults of a policy: without a default it denies, as that
// of Angos.
func newAccessPolicy() *AccessPolicy { return &AccessPolicy{Default: PolicyDeny, Rules: []string{}} }

// errTwoPolicies says that the policy of all requests is in both of its places.
var errTwoPolicies = errors.New("is the same table as [global.access_policy], which is also set; remove one of them")

// placePolicy returns the document with the table access_policy in global, where Angos
// has it.
func (d *decoder) placePolicy(root *node) *node {
	top, ok := root.value.(table)
	policy := top["access_policy"]
	if !ok || policy == nil {
		return root
	}
	top = maps.Clone(top)
	delete(top, "access_policy")
	global := table{}
	at := policy.position
	if n := top["global"]; n != nil {
		below, isTable := n.value.(table)
		if !isTable { // a problem of its own
			return root
		}
		global, at = maps.Clone(below), n.position
	}
	if global["access_policy"] != nil {
		d.fail(place{key: "access_policy"}, policy, errTwoPolicies)
		return &node{top, root.position}
	}
	global["access_policy"] = policy
	top["global"] = &node{global, at}
	return &node{top, root.position}
}

// accessPolicy decodes a policy. Its older key default_allow counts if default is not set.
func (d *decoder) accessPolicy(p place, n *node, dst **AccessPolicy) {
	policy := newAccessPolicy()
	if t, ok := n.value.(table); ok && t["default_allow"] != nil {
		older := t["default_allow"]
		t = maps.Clone(t)
		delete(t, "default_allow")
		allow, isBool := older.value.(bool)
		switch {
		case !isBool:
			d.failKind(p.in("default_allow"), older, "true or false")
		case allow:
			policy.Default = PolicyAllow
		}
		d.config.source.positions[p.in("default_allow").key] = older.position
		d.config.source.older = append(d.config.source.older, olderKey{p.in("default_allow").key, fmt.Sprintf("default = %q", policy.Default)})
		n = &node{t, n.position}
	}
	d.table(p, n, reflect.ValueOf(policy).Elem())
	*dst = policy
}

// policyDecides reports whether policies decide about every request: that of all
// requests, or one in each block.
func (c *Config) policyDecides() bool {
	if c.Global.AccessPolicy.mustMatch() {
		return true
	}
	return len(c.Namespaces) > 0 && !slices.ContainsFunc(c.Namespaces, func(n Namespace) bool { return !n.AccessPolicy.mustMatch() })
}

// policy checks that rules compile.
func (v *validator) policy(at string, p *AccessPolicy) {
	if p == nil {
		return
	}
	for i, text := range p.Rules {
		// One rule at a time, so that the report has all problems.
		err := access.CheckPolicy(access.Policy{Rules: []string{text}})
		if failed, ok := errors.AsType[*access.RuleError](err); ok {
			err = failed.Err
		}
		v.failed(elementOf(at+".rules", i), err)
	}
}

// rules checks the rules about pulls from a block.
func (v *validator) rules(at string, n Namespace) {
	for i, glob := range n.Images {
		v.failed(elementOf(at+".images", i), access.CheckNames(n.Key, []string{glob}))
	}
	for i, text := range n.Allow {
		v.failed(elementOf(at+".allow", i), v.checkSubject(text))
	}
	v.policy(at+".access_policy", n.AccessPolicy)
	if n.AuthorizationWebhook != nil {
		v.webhookName(at+".authorization_webhook", *n.AuthorizationWebhook)
	}
}

func (v *validator) checkSubject(text string) error {
	subject, err := access.ParseSubject(text)
	if err != nil {
		return fmt.Errorf("%q %w", text, err)
	}
	auth := v.config.Auth
	group, isGroup := subject.Group()
	provider, isProvider := subject.Provider()
	switch {
	case isProvider && !slices.ContainsFunc(auth.OIDC, func(o OIDC) bool { return o.Key == provider }):
		return fmt.Errorf("%q is not an issuer; add [auth.oidc.%s]", text, provider)
	case isGroup && auth.Groups[group] == nil:
		return fmt.Errorf("%q is not a group in [auth.groups]", text)
	case text == "anonymous" && !auth.Anonymous:
		return errors.New(`"anonymous" has no effect: requests without credentials are refused everywhere. Set auth.anonymous = true, and allow = ["authenticated"] in the other repositories`)
	}
	return nil
}

func (v *validator) webhookName(key, name string) {
	known := func(w Webhook) bool { return w.Key == name }
	if name != "" && !slices.ContainsFunc(v.config.Auth.Webhooks, known) {
		v.fail(key, "no webhook is called %q; add [auth.webhook.%s] with a url", name, name)
	}
}
