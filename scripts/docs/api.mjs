// Markdown of what a TypeScript module exports: its doc comments and signatures.
import ts from 'typescript'

const HEAD = `# API

What the package exports. This page is made from the types by \`make docs\`; [README.md](../README.md) explains how things are used,
and what the errors mean.
`

const DASHBOARD = `# Dashboard

What \`@hocuspocus/extension-redis-affinity/dashboard\` exports; [dashboard.md](dashboard.md) explains it.
`

/** @param {string} main the module, and that of the dashboard */
export function describeTypes(main, dashboard) {
  const program = ts.createProgram([main, dashboard], { module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext })
  return [HEAD, ...sectionsOf(main, program), DASHBOARD, ...sectionsOf(dashboard, program)].join('\n')
}

function sectionsOf(entry, program) {
  const checker = program.getTypeChecker()
  const sections = []
  const exports = checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(entry)))
  for (const symbol of exports) {
    const target = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol
    sections.push(...target.declarations.map((node) => describe(node, checker)))
  }
  // Classes and functions first: they are what one looks for.
  const order = ['class', 'function', 'constant', 'interface', 'type']
  sections.sort((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind))
  return sections.map(({ markdown }) => markdown)
}

function describe(node, checker) {
  const name = node.name.text
  if (ts.isClassDeclaration(node)) return { kind: 'class', markdown: describeClass(node) }
  if (ts.isFunctionDeclaration(node)) return { kind: 'function', markdown: `## ${name}()\n\n${code(signature(node))}${comment(node)}` }
  if (ts.isInterfaceDeclaration(node)) return { kind: 'interface', markdown: describeInterface(node) }
  if (ts.isTypeAliasDeclaration(node)) return { kind: 'type', markdown: `## type ${name}\n\n${code(typeText(node, checker))}${comment(node)}` }
  if (ts.isVariableDeclaration(node)) return { kind: 'constant', markdown: `## ${name}\n\n${code(`const ${name}${typeOf(node)}`)}${comment(node.parent.parent)}` }
  throw new Error(`${ts.SyntaxKind[node.kind]} ${name}: api.mjs does not know how to describe it`)
}

/** As it is written, unless that names what is not exported. */
function typeText(node, checker) {
  const text = textOf(node).replace(/^export /, '')
  if (!text.includes('typeof ')) return text
  const flags = ts.TypeFormatFlags.NoTruncation | ts.TypeFormatFlags.InTypeAlias | ts.TypeFormatFlags.UseSingleQuotesForStringLiteralType
  return `type ${node.name.text} = ${checker.typeToString(checker.getTypeAtLocation(node), node, flags)}`
}

function describeClass(node) {
  const heritage = (node.heritageClauses ?? []).map(textOf).join(' ')
  const head = `class ${node.name.text}${typeParameters(node)}${heritage && ` ${heritage}`}`
  const members = node.members.filter((member) => isPublic(member) && (ts.isConstructorDeclaration(member) || member.name))
  return `## class ${node.name.text}\n\n${code(head)}${comment(node)}\n${members.map(describeMember).join('\n')}`
}

function describeMember(member) {
  const isCall = ts.isMethodDeclaration(member) || ts.isConstructorDeclaration(member)
  const name = ts.isConstructorDeclaration(member) ? 'constructor' : member.name.getText()
  const initial = member.initializer ? ` = ${textOf(member.initializer)}` : ''
  const property = `${ts.isGetAccessor(member) || isReadonly(member) ? 'readonly ' : ''}${name}${member.questionToken ? '?' : ''}${typeOf(member)}${initial}`
  return `### ${name}${isCall ? '()' : ''}\n\n${code(isCall ? signature(member) : property)}${comment(member)}`
}

function describeInterface(node) {
  const heritage = (node.heritageClauses ?? []).map(textOf).join(' ')
  const members = node.members.map((member) => {
    const text = textOf(member).replace(/[,;]$/, '').replace(/\s*\n\s*/g, ' ')
    const { prose } = docOf(member)
    return `- \`${text}\`${prose ? `: ${prose.replace(/\s*\n\s*/g, ' ')}` : ''}`
  })
  return `## interface ${node.name.text}${heritage && ` ${heritage}`}\n${comment(node)}\n${members.join('\n')}\n`
}

const textOf = (node) => node.getText()
const typeOf = (node) => (node.type ? `: ${textOf(node.type)}` : '')
const typeParameters = (node) => (node.typeParameters ? `<${node.typeParameters.map(textOf).join(', ')}>` : '')
const isReadonly = (node) => (node.modifiers ?? []).some(({ kind }) => kind === ts.SyntaxKind.ReadonlyKeyword)
const isPublic = (node) =>
  !(node.name && ts.isPrivateIdentifier(node.name)) &&
  !(node.modifiers ?? []).some(({ kind }) => kind === ts.SyntaxKind.PrivateKeyword || kind === ts.SyntaxKind.ProtectedKeyword)

function signature(node) {
  const name = ts.isConstructorDeclaration(node) ? 'constructor' : node.name.getText()
  const parameters = node.parameters.map((parameter) => textOf(parameter).replace(/^_/, ''))
  return `${name}${typeParameters(node)}(${parameters.join(', ')})${typeOf(node)}`
}

const code = (text) => `\`\`\`ts\n${text}\n\`\`\`\n`

/** The prose of a doc comment, and what it says of parameters, result and errors. */
function docOf(node) {
  const doc = node.jsDoc?.at(-1)
  if (!doc) return { prose: '', tags: [] }
  const tags = (doc.tags ?? []).map((tag) => {
    const text = (ts.getTextOfJSDocComment(tag.comment) ?? '').replace(/\s*\n\s*/g, ' ').replace(/^- /, '')
    // TypeScript takes the first word after @throws for a type.
    const type = tag.typeExpression ? `${textOf(tag.typeExpression).replace(/^\{|\}$/g, '')} ` : ''
    const name = tag.tagName.text
    return name === 'param' ? `- \`${textOf(tag.name)}\`: ${text}` : `- ${name}: ${type}${text}`
  })
  return { prose: ts.getTextOfJSDocComment(doc.comment) ?? '', tags }
}

function comment(node) {
  const { prose, tags } = docOf(node)
  return [prose && `\n${prose}\n`, tags.length > 0 && `\n${tags.join('\n')}\n`].filter(Boolean).join('')
}
