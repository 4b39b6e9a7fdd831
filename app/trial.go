package app

import (
	"cmp"
	"context"
	"net"
	"net/url"
	"os/exec"
	"strings"

	"github.com/weirhq/weir/check"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/credhelper"
	"github.com/weirhq/weir/internal/units"
	"github.com/weirhq/weir/pages"
)

// trial is how the registries of forms are reached.
type trial struct {
	dial  func(ctx context.Context, network, addr string) (net.Conn, error) // nil: as all upstreams are
	roots []byte                                                            // authorities in PEM form for each trial; nil: none
}

// maxCertificates bounds a text with certificates or a key, in bytes. A chain has some KiB.
const maxCertificates = 64 << 10

// filesOf returns the certificates of a form. They stay in memory, and serve one trial.
func (t trial) filesOf(described pages.Registry) tlsFiles {
	roots := t.roots
	if described.Authority {
		roots = []byte(described.AuthorityPEM)
	}
	files := tlsFiles{roots: file{"the text of the authority", roots}}
	if described.Certificate {
		files.certificate = file{"the text of the certificate", []byte(described.CertificatePEM)}
		files.key = file{"that of the key", []byte(described.KeyPEM)}
	}
	return files
}

// certificateProblems returns the problems of the certificates of a form.
func certificateProblems(described pages.Registry) (problems []pages.FieldProblem) {
	if described.Untried {
		return nil
	}
	add := func(field, message string) {
		problems = append(problems, pages.FieldProblem{Field: field, Message: message})
	}
	for _, one := range []struct {
		field, text string
		wanted      bool
	}{
		{"authority", described.AuthorityPEM, described.Authority},
		{"certificate", described.CertificatePEM, described.Certificate},
		{"private_key", described.KeyPEM, described.Certificate},
	} {
		switch {
		case one.wanted && one.text == "":
			add(one.field, "is missing. Paste its text in PEM form, which begins with -----BEGIN")
		case len(one.text) > maxCertificates:
			add(one.field, "must have "+units.IEC(maxCertificates)+" at most")
		}
	}
	if len(problems) > 0 {
		return problems
	}
	if described.Authority {
		if err := config.CheckAuthorities([]byte(described.AuthorityPEM)); err != nil {
			add("authority", err.Error())
		}
	}
	if described.Certificate {
		if err := config.CheckPair([]byte(described.CertificatePEM), []byte(described.KeyPEM)); err != nil {
			add("certificate", "does not go with the key: "+err.Error())
		}
	}
	return problems
}

// Try probes the registry of a block. The block is the only one of a configuration of its own, so
// that nothing of the mirror goes along but its proxy and, for Amazon ECR, the credential helper.
func (r registrar) Try(ctx context.Context, described pages.Registry) ([]check.Result, error) {
	if err := r.Permit(ctx); err != nil {
		return nil, err
	}
	draft := draftOf(described)
	cfg, err := draft.Load(r.inForce().UI.AllowPrivateRegistries)
	if err != nil {
		return nil, err
	}
	if missing := helperAway(draft); missing != nil {
		return missing, nil
	}
	open, err := openUpstreams(cfg, new(r.trial.filesOf(described)), r.trial.dial)
	if err != nil {
		return nil, err
	}
	defer open.Close()
	images, err := check.NewImages(open.Specs)
	if err != nil {
		return nil, err
	}
	if image, err := imageOf(described); err == nil && image.Name != "" {
		if err := images.Add(image); err != nil {
			return nil, err
		}
	}
	results := check.Run(ctx, open.Targets(cfg), images, check.Advice{Failure: ExplainUpstream, MoreRequests: MoreRequests})
	for _, one := range results {
		for i, remark := range one.Remarks { // they are those of the command
			one.Remarks[i] = strings.ReplaceAll(remark, "with --image", "in the form")
		}
	}
	return results, nil
}

// helperAway returns the result of a trial whose credential helper is not installed; nil if it is,
// or if there is none.
func helperAway(draft config.Draft) []check.Result {
	if draft.Helper == "" {
		return nil
	}
	program := credhelper.Program(draft.Helper)
	if _, err := exec.LookPath(program); err == nil {
		return nil
	}
	host := draft.Key
	if at, err := url.Parse(draft.URL); err == nil {
		host = cmp.Or(at.Host, host)
	}
	return []check.Result{{
		Upstream: host, Blocks: []string{draft.Key}, Status: check.StatusFailed, Authentication: check.LoginUnknown,
		Errors: []string{program + " is not in the PATH of the mirror, or cannot be run there. Install it on the mirror's machine or in its image: the package amazon-ecr-credential-helper has it. No request was sent"},
	}}
}
