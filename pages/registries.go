package pages

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/check"
)

// Registrar makes blocks of the configuration. Each method refuses clients that may not know of all
// blocks.
type Registrar interface {
	// Permit returns an error for a client that the other methods refuse.
	Permit(ctx context.Context) error
	// Draft returns a block as TOML without its password, or the problems of its fields.
	Draft(ctx context.Context, r Registry) (text string, problems []FieldProblem, err error)
	// Try probes the registry of a block without problems.
	Try(ctx context.Context, r Registry) ([]check.Result, error)
	// Writes reports whether Add can write blocks.
	Writes() bool
	// Conflicts returns why a block without problems cannot be added.
	Conflicts(ctx context.Context, r Registry) ([]FieldProblem, error)
	// Add writes a block into the configuration, and puts it in force.
	Add(ctx context.Context, r Registry) error
	// Added returns the blocks that Add has written.
	Added(ctx context.Context) ([]AddedBlock, error)
	// Remove removes a block that Add has written.
	Remove(ctx context.Context, key string) error
}

// AddedBlock is a block that a page has written to a file. Its key is empty if the file was changed
// by hand, and pages then leave it alone.
type AddedBlock struct{ Key, URL, File string }

// Registry is a block with one upstream, as the form describes it.
type Registry struct {
	Key, URL           string
	Username, Password string
	Image              string // to ask the registry for, below the block; "": none

	Default     bool   // it serves the names without a block
	Helper      string // the program that gives the password; "": none
	Authority   bool   // of the registry's certificate; the block names its file
	Certificate bool   // of the mirror; the block names its files

	// Untried says that the block is only shown: the form has no password and no certificates.
	Untried bool
	// Certificates and a key in PEM form, for the trial alone. No page shows them again.
	AuthorityPEM, CertificatePEM, KeyPEM string
}

// byHand reports whether only the operator can write the block.
func (r Registry) byHand() bool { return r.Helper != "" || r.Authority || r.Certificate }

// FieldProblem is a mistake in a field of the form.
type FieldProblem struct {
	Field   string // its name; "": the problem is one of the whole block
	Message string
}

// kind is a kind of registry with its own form.
type kind struct {
	ID, Title, Note   string
	Registry                 // the values of the form
	Fixed             bool   // Key and URL are not asked for
	Login             bool   // a username and a password are asked for
	NeedsLogin        bool   // they are required
	UserHint          string // about the username
	PasswordHint      string
	KeyExample        string
	URLExample        string
	AuthorityOptional bool // an authority is not required
}

// kinds are all of them. The first one is shown first.
var kinds = []kind{
	{
		ID: "docker.io", Title: "Docker Hub", Fixed: true, Login: true,
		Registry: Registry{Key: "docker.io", URL: "https://registry-1.docker.io", Default: true},
		Note:     "An account raises the limit of pulls and gives access to its private images.",
		UserHint: "Your Docker ID.", PasswordHint: "A personal access token that may read.",
	},
	{
		ID: "ghcr.io", Title: "GitHub (ghcr.io)", Fixed: true, Login: true,
		Registry: Registry{Key: "ghcr.io", URL: "https://ghcr.io"},
		Note:     "Public images need no login.",
		UserHint: "Your GitHub name.", PasswordHint: "A classic personal access token with read:packages.",
	},
	{
		ID: "quay.io", Title: "Quay.io", Fixed: true, Login: true,
		Registry: Registry{Key: "quay.io", URL: "https://quay.io"},
		Note:     "Public images need no login.",
		UserHint: "A robot account, such as team+mirror.", PasswordHint: "Its token.",
	},
	{
		ID: "gitlab", Title: "GitLab", Login: true,
		Registry:   Registry{Key: "registry.gitlab.com", URL: "https://registry.gitlab.com"},
		Note:       "GitLab.com or your own GitLab. Public images need no login.",
		KeyExample: "registry.gitlab.com", URLExample: "https://registry.gitlab.com",
		UserHint: "The name of a deploy token.", PasswordHint: "The deploy token, with read_registry.",
	},
	{
		ID: "ecr", Title: "Amazon ECR",
		Registry:   Registry{Helper: "ecr-login"},
		Note:       "Passwords of ECR expire after twelve hours, so the credential helper docker-credential-ecr-login gets them, with the rights of the mirror's machine. The test runs it too.",
		KeyExample: "123456789012.dkr.ecr.eu-central-1.amazonaws.com", URLExample: "https://123456789012.dkr.ecr.eu-central-1.amazonaws.com",
	},
	{
		ID: "gar", Title: "Google Artifact Registry", Login: true, NeedsLogin: true,
		Registry:   Registry{Username: "_json_key_base64"},
		Note:       "A service account with the role Artifact Registry Reader.",
		KeyExample: "europe-docker.pkg.dev", URLExample: "https://europe-docker.pkg.dev",
		UserHint: "_json_key_base64 for the key of a service account.", PasswordHint: "The key file, in base64 and one line.",
	},
	{
		ID: "acr", Title: "Azure Container Registry", Login: true, NeedsLogin: true,
		Note:       "A token of the registry with the scope map _repositories_pull, or a service principal with the role AcrPull.",
		KeyExample: "example.azurecr.io", URLExample: "https://example.azurecr.io",
		UserHint: "The name of the token, or the ID of the service principal.", PasswordHint: "Its password.",
	},
	{
		ID: "private", Title: "Another registry", Login: true,
		KeyExample: "registry.example.com", URLExample: "https://registry.example.com",
	},
	{
		ID: "private-ca", Title: "Another registry, with your own certificate authority", Login: true,
		Registry:   Registry{Authority: true},
		Note:       "For a registry whose certificate is not signed by a public authority.",
		KeyExample: "registry.example.com", URLExample: "https://registry.example.com",
	},
	{
		ID: "mtls", Title: "Another registry, with a client certificate", Login: true,
		Registry:          Registry{Authority: true, Certificate: true},
		Note:              "For a registry that requires a client certificate. Leave out the authority if a public one has signed the certificate of the registry.",
		AuthorityOptional: true,
		KeyExample:        "registry.example.com", URLExample: "https://registry.example.com",
	},
}

// kindOf returns the kind with an ID; the first one if there is none.
func kindOf(id string) kind {
	for _, one := range kinds {
		if one.ID == id {
			return one
		}
	}
	return kinds[0]
}

const (
	// maxTrials is how many trials run at once. A trial is a few requests of one registry.
	maxTrials = 2
	// trialLimit is how long a trial takes at most.
	trialLimit = 20 * time.Second
)

// registryForm are the values of the page.
type registryForm struct {
	Kinds    []kind
	Kind     kind
	Values   Registry // without the password
	Problems map[string]string
	Text     string // the block for people to paste
	Tried    bool
	Results  []check.Result
	ByHand   bool
	Writes   bool
	Conflict string // why the block cannot be added here
	Unadded  bool   // the trial has failed, so the block was not added
	Added    string // key of a block that is in force
	Missing  string // key of a block that is not
	Removed  string // key of a block whose file was removed
	Blocks   []AddedBlock
	Host     string // of the mirror
}

// addRegistry shows the form of a kind of registry.
func (h *Handler) addRegistry(ctx context.Context, r *http.Request) (page, error) {
	if !h.opts.MayChange(r) {
		return page{}, &api.Failure{Status: http.StatusForbidden, Message: "Only clients that may change the cache and see all blocks may add registries"}
	}
	one := kindOf(r.URL.Query().Get("kind"))
	if err := h.opts.Registrar.Permit(ctx); err != nil {
		return page{}, err
	}
	values := registryForm{Values: one.Registry, Host: h.opts.Address(r).Host, Removed: r.URL.Query().Get("removed")}
	if added := r.URL.Query().Get("added"); slices.Contains(h.opts.Blocks(ctx), added) {
		values.Added = added
	} else {
		values.Missing = added
	}
	return h.formPage(ctx, one, values)
}

func (h *Handler) formPage(ctx context.Context, k kind, values registryForm) (page, error) {
	values.Kinds, values.Kind, values.ByHand, values.Writes = kinds, k, k.byHand(), h.opts.Registrar.Writes()
	var err error
	values.Blocks, err = h.opts.Registrar.Added(ctx)
	return page{"Add a registry", "registry", values}, err
}

// removeRegistry removes a block that this page has added.
func (h *Handler) removeRegistry(ctx context.Context, r *http.Request) (string, error) {
	key := r.PostForm.Get("key")
	return link("/add-registry", "removed", key), h.opts.Registrar.Remove(ctx, key)
}

// submitRegistry makes the block of the form, and tries it. The block of a registry that works is
// added if the form says so.
func (h *Handler) submitRegistry(ctx context.Context, r *http.Request) (page, string, error) {
	one := kindOf(r.PostForm.Get("kind"))
	described := one.read(r.PostForm)
	values := registryForm{Values: described}
	values.Values.Password, values.Values.AuthorityPEM, values.Values.CertificatePEM, values.Values.KeyPEM = "", "", "", ""
	if strings.Contains(described.URL, "@") { // it may hold a password
		values.Values.URL = ""
	}
	adds := r.PostForm.Get("action") == "add" && h.opts.Registrar.Writes() && !one.byHand()
	text, problems, err := h.opts.Registrar.Draft(ctx, described)
	if err == nil && len(problems) == 0 && h.opts.Registrar.Writes() && !one.byHand() {
		problems, err = h.conflicts(ctx, described, adds, &values)
	}
	if err != nil {
		return page{}, "", err
	}
	show := func() (page, string, error) {
		made, err := h.formPage(ctx, one, values)
		return made, "", err
	}
	if len(problems) > 0 {
		values.Problems = one.atFields(problems)
		return show()
	}
	values.Text = text
	if described.Untried {
		return show()
	}
	values.Tried = true
	if values.Results, err = h.try(ctx, described); err != nil {
		return page{}, "", err
	}
	if values.Unadded = adds && !allWork(values.Results); values.Unadded || !adds {
		return show()
	}
	return page{}, link("/add-registry", "kind", one.ID, "added", described.Key), h.opts.Registrar.Add(ctx, described)
}

// conflicts returns why a block cannot be added, or notes it if it is only to be tried.
func (h *Handler) conflicts(ctx context.Context, described Registry, adds bool, values *registryForm) ([]FieldProblem, error) {
	found, err := h.opts.Registrar.Conflicts(ctx, described)
	if adds || err != nil {
		return found, err
	}
	for _, p := range found {
		text := p.Message
		if p.Field == "key" {
			text = "its name " + text
		}
		values.Conflict = strings.TrimSpace(values.Conflict + " " + sentence(text))
	}
	return nil, nil
}

// atFields returns the texts of problems by the fields of the form.
func (k kind) atFields(problems []FieldProblem) map[string]string {
	texts := make(map[string]string)
	for _, p := range problems {
		field, text := p.Field, p.Message
		if k.Fixed && (field == "key" || field == "url") { // the form has no such field
			field, text = "", "the block "+k.Key+" "+text
		}
		texts[field] = strings.TrimSpace(texts[field] + " " + sentence(text))
	}
	return texts
}

// allWork reports whether all upstreams of a trial work.
func allWork(results []check.Result) bool {
	return !slices.ContainsFunc(results, func(r check.Result) bool { return r.Status != check.StatusOK })
}

// read returns the block that a posted form describes.
func (k kind) read(form url.Values) Registry {
	r := k.Registry
	if !k.Fixed {
		r.URL = strings.TrimSpace(form.Get("url"))
		r.Key = cmp.Or(strings.TrimSpace(form.Get("key")), hostOf(r.URL))
	}
	if k.Login {
		r.Username = strings.TrimSpace(form.Get("username"))
	}
	r.Untried = k.byHand() && form.Get("action") == "show"
	if k.Login && !r.Untried {
		r.Password = form.Get("password")
	}
	if k.Authority && !r.Untried {
		r.AuthorityPEM = form.Get("authority")
		r.Authority = !k.AuthorityOptional || r.AuthorityPEM != ""
	}
	if k.Certificate && !r.Untried {
		r.CertificatePEM, r.KeyPEM = form.Get("certificate"), form.Get("private_key")
	}
	r.Image = strings.TrimSpace(form.Get("image"))
	return r
}

// hostOf returns the host of a URL; "" if it has none.
func hostOf(text string) string {
	parsed, err := url.Parse(text)
	if err != nil {
		return ""
	}
	return strings.ToLower(parsed.Host)
}

// try probes the registry of a block. Few trials run at once.
func (h *Handler) try(ctx context.Context, r Registry) ([]check.Result, error) {
	select {
	case h.trials <- struct{}{}:
		defer func() { <-h.trials }()
	default:
		return nil, &api.Failure{Status: http.StatusConflict, Message: "Other registries are being tested. Send the form again in a few seconds"}
	}
	ctx, cancel := context.WithTimeout(ctx, trialLimit)
	defer cancel()
	return h.opts.Registrar.Try(ctx, r)
}
