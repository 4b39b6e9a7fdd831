package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// layers decide what an identity may have: the names that exist, the
// lists allow, the policies, and the webhooks.
type layers struct {
	anonymous bool // requests without credentials are let in as all others are
	global    blockRules
	blocks    map[string]*blockRules
	verdicts  *verdicts
}

// blockRules are the layers of one repository block. Those of all requests have no names
// and no list.
type blockRules struct {
	names   names
	allow   []Subject // empty: every identity
	policy  *policy   // nil: none
	webhook *webhook  // nil: none
	// ownWebhook is set if the webhook is the block's own, and not that of all requests.
	ownWebhook bool

	memory layersMemory
}

// layersMemory reports whether the layers before the webhook are remembered for a block.
type layersMemory int

const (
	notRemembered    layersMemory = iota // they read the content that is asked for, or cost less than the memory
	rememberedPulls                      // a list of repositories asks about each of them, and would fill the memory
	rememberedAlways                     // a policy costs some microseconds
)

// newLayers compiles the rules of a configuration. The error names the block.
func newLayers(opts Options, tags *tagger) (*layers, error) {
	l := &layers{
		anonymous: opts.Anonymous,
		blocks:    make(map[string]*blockRules, len(opts.Blocks)), verdicts: newVerdicts(),
	}
	hooks := make(map[string]*webhook, len(opts.Webhooks))
	for _, hook := range opts.Webhooks {
		hooks[hook.Name] = newWebhook(hook, tags)
	}
	var err error
	if l.global.policy, err = newPolicy(opts.Policy); err != nil {
		return nil, err
	}
	if l.global.webhook, err = named(hooks, opts.Webhook); err != nil {
		return nil, err
	}
	for _, block := range opts.Blocks {
		rules, err := newBlockRules(block, hooks, l.global.webhook)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", block.Key, err)
		}
		rules.memory = memoryOf(l.global.policy, rules)
		l.blocks[block.Key] = rules
	}
	l.global.memory = memoryOf(l.global.policy, &l.global)
	return l, nil
}

// memoryOf returns whether the layers of a block are remembered.
func memoryOf(global *policy, b *blockRules) layersMemory {
	switch {
	case global.noted().readsContent || b.policy.noted().readsContent:
		return notRemembered
	case !global.allowsAll() || !b.policy.allowsAll():
		return rememberedAlways
	case !b.names.all() || len(b.allow) > 0:
		return rememberedPulls
	default:
		return notRemembered
	}
}

// readAddress reports whether any layer reads the address of the client.
func (l *layers) readAddress() bool {
	for _, b := range l.blocks {
		if b.readAddress() {
			return true
		}
	}
	return l.global.readAddress()
}

func (b *blockRules) readAddress() bool {
	return b.policy.noted().readsAddress || b.webhook != nil || slices.ContainsFunc(b.allow, Subject.isNetwork)
}

func newBlockRules(block Block, hooks map[string]*webhook, global *webhook) (_ *blockRules, err error) {
	b := &blockRules{allow: block.Allow, webhook: global}
	if b.names, err = newNames(block.Key, block.Images); err != nil {
		return nil, err
	}
	if b.policy, err = newPolicy(block.Policy); err != nil {
		return nil, err
	}
	if block.Webhook != nil {
		b.ownWebhook = *block.Webhook != ""
		b.webhook, err = named(hooks, *block.Webhook)
	}
	return b, err
}

func named(hooks map[string]*webhook, name string) (*webhook, error) {
	hook := hooks[name]
	if hook == nil && name != "" {
		return nil, fmt.Errorf("no webhook is called %q", name)
	}
	return hook, nil
}

// lock reports whether the rules refuse any request.
func (l *layers) lock() bool {
	if !l.anonymous || l.global.locks() {
		return true
	}
	for _, b := range l.blocks {
		if b.locks() {
			return true
		}
	}
	return false
}

func (b *blockRules) locks() bool {
	return !b.names.all() || len(b.allow) > 0 || !b.policy.allowsAll() || b.webhook != nil
}

// close frees the connections to webhooks.
func (l *layers) close() {
	for _, b := range l.blocks {
		if b.webhook != nil {
			b.webhook.close()
		}
	}
	if l.global.webhook != nil {
		l.global.webhook.close()
	}
}

// refusal is the layer that refuses a request, and why.
type refusal struct {
	layer Layer
	cause error // of a failure; nil: the layer has decided
}

// judge returns the refusal of a request, or nil. It returns an error only if ctx ends.
func (l *layers) judge(ctx context.Context, i *Identity, q Question, p Presented) (*refusal, error) {
	block := &l.global
	if q.Block != "" {
		// A block that a reload has removed, in the middle of this request, has no rules
		// any more, and nothing that may be had.
		if block = l.blocks[q.Block]; block == nil {
			return &refusal{layer: LayerImages}, nil
		}
	}
	if refused := l.judgeByMemory(i, &q, block); refused != nil {
		return refused, nil
	}
	if block.webhook == nil {
		return nil, nil //nolint:nilnil // no refusal is the answer
	}
	allowed, err := block.webhook.allows(ctx, i, q, p)
	_, failed := errors.AsType[*WebhookError](err)
	switch {
	case err == nil && allowed:
		return nil, nil //nolint:nilnil // no refusal is the answer
	case err == nil:
		return &refusal{layer: LayerWebhook}, nil
	case failed:
		return &refusal{layer: LayerWebhookFailure, cause: err}, nil
	default: // the client has left
		return nil, err
	}
}

// judgeByMemory is judge of the layers before the webhook. It does not ask them again about
// the same request.
func (l *layers) judgeByMemory(i *Identity, q *Question, block *blockRules) *refusal {
	remember := i.sender != sender{} && (block.memory == rememberedAlways || block.memory == rememberedPulls && !q.listed)
	var key verdictKey
	if remember {
		if key = newVerdictKey(i, q); l.verdicts.allowed(key) {
			return nil
		}
	}
	if q.Name != "" && !block.names.show(q.Name) {
		return &refusal{layer: LayerImages}
	}
	if layer := l.admit(i, q, block); layer != "" {
		return &refusal{layer: layer}
	}
	if refused := l.askPolicies(i, q, block); refused != nil {
		return refused
	}
	if remember {
		l.verdicts.allow(key)
	}
	return nil
}

// admit returns the layer that keeps an identity out before any policy is asked, or "".
func (l *layers) admit(i *Identity, q *Question, block *blockRules) Layer {
	lets := l.lets(i, block)
	switch {
	case q.ByUpstream && len(block.allow) == 0:
		lets = true // the upstream identifies the client
	case i.Anonymous && q.Action == GetVersion:
		lets = l.openTo(i)
	// A client gets its token before it says which block it is for.
	case i.Anonymous && q.Action == GetToken:
		lets = lets || l.openInPart(i)
	}
	switch {
	case lets:
		return ""
	case i.Anonymous:
		return LayerIdentity
	default:
		return LayerAllow
	}
}

// lets reports whether a block lets an identity in to its policies.
func (l *layers) lets(i *Identity, block *blockRules) bool {
	if len(block.allow) > 0 {
		return slices.ContainsFunc(block.allow, func(s Subject) bool {
			// The word alone does not open a block if all must have credentials.
			return s.matches(i) && (s.kind != byAnonymous || l.anonymous)
		})
	}
	return !i.Anonymous || l.anonymous
}

// openTo reports whether a request without credentials may pull from every block. Only
// then the root of the API must not ask for them: docker decides there whether it sends
// its credentials with the requests to come.
func (l *layers) openTo(i *Identity) bool {
	for _, block := range l.blocks {
		if !l.lets(i, block) || !block.policy.allowsAll() || block.ownWebhook {
			return false
		}
	}
	return len(l.blocks) > 0
}

// openInPart reports whether a request without credentials may pull from any block.
func (l *layers) openInPart(i *Identity) bool {
	for _, block := range l.blocks {
		if l.lets(i, block) {
			return true
		}
	}
	return false
}

// askPolicies returns the refusal of the policy of all requests or of the block's own.
func (l *layers) askPolicies(i *Identity, q *Question, block *blockRules) *refusal {
	global, own := l.global.policy, block.policy
	if block == &l.global {
		own = nil
	}
	if global.allowsAll() && own.allowsAll() {
		return nil
	}
	values := variables(i, *q)
	for _, p := range []struct {
		policy *policy
		layer  Layer
	}{{global, LayerPolicy}, {own, LayerBlockPolicy}} {
		if allowed, err := p.policy.allows(values); !allowed {
			return &refusal{layer: p.layer, cause: err}
		}
	}
	return nil
}
