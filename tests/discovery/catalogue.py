"""Tools as many authors would describe them: enough beside the built-in ones to make a hundred.

Some are alike on purpose (three ways to look at logs, four databases, two trackers of issues).
"""

from __future__ import annotations

from typing import Final

from agent_runtime.types import ToolInfo

_Row = tuple[str, str, dict[str, str]]

MODULES: Final[dict[str, str]] = {
    "postgres": "Read and change PostgreSQL databases.",
    "kubernetes": "Works with a Kubernetes cluster through its API.",
    "aws": "Amazon Web Services: storage, machines, functions.",
    "github": "Issues and pull requests on GitHub.",
    "terraform": "Infrastructure as code.",
}
"""What the modules behind some toolbelts say of themselves; other toolbelts are plain tools."""

CATALOGUE: Final[dict[str, list[_Row]]] = {
    "postgres": [
        ("pg_query", "Run a read-only SQL statement and return the rows.",
         {"sql": "A SELECT statement.", "limit": "Maximum number of rows."}),
        ("pg_execute", "Run a SQL statement that changes data or the schema, in a transaction.",
         {"sql": "INSERT, UPDATE, DELETE or DDL."}),
        ("pg_describe_table", "Show the columns, types, indexes and constraints of a table.",
         {"table": "Schema-qualified name."}),
        ("pg_explain", "Show the execution plan of a query with costs and timings.",
         {"sql": "The query to analyse."}),
    ],
    "mysql": [
        ("mysql_query", "Execute SQL on a MySQL or MariaDB server.",
         {"sql": "Statement to execute.", "database": "Schema name."}),
    ],
    "mongodb": [
        ("mongo_find", "Find documents in a MongoDB collection.",
         {"collection": "Collection name.", "filter": "Query filter.", "limit": "Max documents."}),
    ],
    "redis": [
        ("redis_get", "Read the value of a key from Redis.", {"key": "The key."}),
        ("redis_set", "Store a value under a key in Redis, optionally with an expiry.",
         {"key": "The key.", "value": "The value.", "ttl_seconds": "Time to live."}),
    ],
    "aws": [
        ("s3_list_objects", "List the objects in an S3 bucket below a prefix.",
         {"bucket": "Bucket name.", "prefix": "Key prefix."}),
        ("s3_upload", "Upload a local file to an S3 bucket.",
         {"path": "Local file.", "bucket": "Bucket name.", "key": "Object key."}),
        ("s3_presign_url", "Create a temporary link to an S3 object.",
         {"bucket": "Bucket name.", "key": "Object key.", "expires_in": "Seconds of validity."}),
        ("ec2_list_instances", "List EC2 virtual machines with state and address.",
         {"region": "AWS region."}),
        ("ec2_stop_instance", "Stop a running EC2 virtual machine.",
         {"instance_id": "Id of the instance."}),
        ("lambda_invoke", "Call an AWS Lambda function with a JSON payload.",
         {"function": "Function name.", "payload": "JSON event."}),
        ("cloudwatch_get_logs", "Fetch log events from an AWS CloudWatch log group.",
         {"group": "Log group.", "since": "Start time.", "filter": "Filter pattern."}),
    ],
    "gcp": [
        ("bigquery_run_query", "Run a GoogleSQL query in BigQuery and return the result.",
         {"sql": "The query.", "project": "Billing project."}),
        ("gcs_copy", "Copy objects to, from or between Google Cloud Storage buckets.",
         {"source": "gs:// URL or path.", "destination": "gs:// URL or path."}),
    ],
    "kubernetes": [
        ("k8s_get", "List resources of a kind: pods, deployments, services, nodes.",
         {"kind": "Resource kind.", "namespace": "Namespace; default all."}),
        ("k8s_describe", "Show one resource with its conditions and recent events.",
         {"kind": "Resource kind.", "name": "Its name.", "namespace": "Namespace."}),
        ("k8s_logs", "Read the logs of a pod's containers.",
         {"pod": "Pod name.", "container": "Container name.", "previous": "Of the last crash."}),
        ("k8s_apply", "Apply a manifest to the cluster (create or update resources).",
         {"manifest": "YAML."}),
        ("k8s_scale", "Set the number of replicas of a deployment.",
         {"name": "Deployment.", "replicas": "How many."}),
        ("k8s_rollout_restart", "Restart the pods of a deployment one after another.",
         {"name": "Deployment."}),
    ],
    "docker": [
        ("docker_build", "Build a container image from a Dockerfile.",
         {"context": "Build context directory.", "tag": "Image tag."}),
        ("docker_run", "Start a container from an image.",
         {"image": "Image.", "command": "Command.", "ports": "Published ports."}),
        ("docker_logs", "Show what a container has printed.", {"container": "Name or id."}),
        ("docker_push", "Push an image to a registry.", {"tag": "Image tag."}),
    ],
    "github": [
        ("github_create_issue", "Open an issue in a repository.",
         {"repository": "owner/name.", "title": "Title.", "body": "Text.", "labels": "Labels."}),
        ("github_search_issues", "Search issues and pull requests by text, label or author.",
         {"query": "Search terms."}),
        ("github_create_pull_request", "Open a pull request from a branch.",
         {"head": "Branch with the changes.", "base": "Target branch.", "title": "Title."}),
        ("github_list_workflow_runs", "List recent GitHub Actions runs with their conclusion.",
         {"repository": "owner/name.", "branch": "Branch."}),
        ("github_comment", "Write a comment on an issue or a pull request.",
         {"number": "Issue or pull request number.", "body": "Markdown."}),
    ],
    "jira": [
        ("jira_create_ticket", "Create a Jira ticket in a project.",
         {"project": "Project key.", "summary": "Summary.", "type": "Bug, Task or Story."}),
        ("jira_search", "Find Jira tickets with a JQL expression.", {"jql": "JQL."}),
        ("jira_transition", "Move a Jira ticket to another status of its workflow.",
         {"ticket": "Ticket key.", "status": "Target status."}),
    ],
    "chat": [
        ("slack_post_message", "Post a message to a Slack channel.",
         {"channel": "Channel name.", "text": "Message."}),
        ("slack_search_messages", "Search the messages of a Slack workspace.",
         {"query": "Words."}),
    ],
    "mail": [
        ("send_email", "Send an e-mail with optional attachments.",
         {"to": "Recipients.", "subject": "Subject.", "body": "Text.", "attachments": "Files"}),
        ("search_mailbox", "Search the inbox by sender, subject or text.", {"query": "Terms."}),
    ],
    "calendar": [
        ("calendar_create_event", "Put an appointment into the calendar and invite people.",
         {"title": "Title.", "start": "ISO time.", "end": "ISO time.", "attendees": "Addresses."}),
        ("calendar_find_free_slot", "Find a time when all attendees are free.",
         {"attendees": "Addresses.", "minutes": "Length of the meeting."}),
    ],
    "images": [
        ("image_resize", "Scale a picture to a given width and height.",
         {"path": "Image file.", "width": "Pixels.", "height": "Pixels."}),
        ("image_convert", "Convert an image between PNG, JPEG, WebP and SVG.",
         {"path": "Image file.", "format": "Target format."}),
        ("image_ocr", "Recognise the text in a scanned image.",
         {"path": "Image file.", "language": "Language of the text."}),
        ("image_generate", "Generate an image from a description.",
         {"prompt": "What it shows.", "size": "Size."}),
    ],
    "documents": [
        ("pdf_extract_text", "Extract the text of a PDF file, page by page.",
         {"path": "PDF file.", "pages": "Page range."}),
        ("pdf_merge", "Join several PDF files into one.",
         {"paths": "PDF files in order.", "output": "Where to write."}),
        ("html_to_pdf", "Print an HTML page to PDF.", {"html": "HTML file or URL."}),
        ("spreadsheet_read", "Read cells of an Excel workbook.",
         {"path": "xlsx file.", "sheet": "Sheet name.", "range": "Such as A1:D20."}),
        ("docx_to_markdown", "Convert a Word document to Markdown.", {"path": "docx file."}),
    ],
    "language": [
        ("translate_text", "Translate text from one language to another.",
         {"text": "The text.", "source": "Source language.", "target": "Target language."}),
        ("detect_language", "Tell in which language a text is written.", {"text": "The text."}),
        ("summarize_text", "Shorten a long text to its main points.",
         {"text": "The text.", "sentences": "How many sentences."}),
    ],
    "audio": [
        ("transcribe_audio", "Turn a recording of speech into text.",
         {"path": "Audio file.", "language": "Spoken language."}),
        ("text_to_speech", "Read a text aloud into an audio file.",
         {"text": "What to say.", "voice": "Voice."}),
    ],
    "web": [
        ("web_search", "Search the internet and return titles, links and snippets.",
         {"query": "Search terms.", "count": "Number of results."}),
        ("browser_screenshot", "Open a page in a headless browser and take a picture of it.",
         {"url": "Address.", "viewport": "Width and height."}),
        ("browser_click", "Click an element of the page that is open in the browser.",
         {"selector": "CSS selector."}),
    ],
    "monitoring": [
        ("prometheus_query", "Evaluate a PromQL expression over a range of time.",
         {"expression": "PromQL.", "start": "Start.", "end": "End.", "step": "Step."}),
        ("sentry_list_errors", "List unresolved exceptions reported by an application.",
         {"project": "Sentry project.", "since": "Start time."}),
        ("pagerduty_acknowledge", "Acknowledge an incident so that nobody else is paged.",
         {"incident": "Incident id."}),
    ],
    "terraform": [
        ("terraform_plan", "Show what would change, without changing anything.",
         {"directory": "Where the configuration is."}),
        ("terraform_apply", "Make the changes of a saved plan.", {"plan": "Plan file."}),
    ],
    "security": [
        ("vulnerability_scan", "Check dependencies against a database of known CVEs.",
         {"lockfile": "Lock file."}),
        ("secret_scan", "Look for passwords, tokens and keys that were committed by mistake.",
         {"path": "Where to look."}),
        ("tls_check", "Show the certificate of a host and when it expires.",
         {"host": "Host name.", "port": "Port."}),
        ("dns_lookup", "Resolve a host name to its records.",
         {"name": "Host name.", "type": "A, AAAA, MX, TXT."}),
    ],
    "code": [
        ("pytest_run", "Run Python tests and report failures with their tracebacks.",
         {"selection": "Files or node ids.", "coverage": "Measure line coverage."}),
        ("jest_run", "Run JavaScript tests with Jest.", {"pattern": "Test files."}),
        ("rename_symbol", "Rename a function, class or variable wherever it is used.",
         {"path": "File.", "line": "Line.", "new_name": "New name."}),
        ("find_references", "List all places that use a symbol.",
         {"path": "File.", "line": "Line.", "column": "Column."}),
        ("profile_python", "Measure where a Python program spends its time.",
         {"script": "Script.", "arguments": "Its arguments."}),
        ("dependency_upgrade", "Raise the version of a package in the lock file.",
         {"package": "Package.", "version": "Wanted version."}),
    ],
    "business": [
        ("stripe_refund", "Give a customer their money back for a payment.",
         {"payment": "Payment id.", "amount": "Cents; default all."}),
        ("crm_find_contact", "Look up a customer by name, company or address.",
         {"query": "Terms."}),
        ("convert_currency", "Convert an amount of money at today's rate.",
         {"amount": "Amount.", "source": "Currency code.", "target": "Currency code."}),
    ],
    "places": [
        ("geocode_address", "Find the coordinates of a postal address.",
         {"address": "Street, town, country."}),
        ("weather_forecast", "Weather of the next days at a place.",
         {"latitude": "Latitude.", "longitude": "Longitude.", "days": "How many days."}),
    ],
    "archives": [
        ("zip_create", "Pack files into a zip archive.", {"paths": "Files.", "output": "Archive."}),
        ("zip_extract", "Unpack a zip or tar archive.",
         {"archive": "Archive.", "directory": "Where to."}),
    ],
}  # fmt: skip


def infos() -> list[ToolInfo]:
    """All of them, sorted by name."""
    made = [
        ToolInfo(
            name=name,
            description=description,
            parameters={
                "type": "object",
                "properties": {
                    key: {"type": "string", "description": said} for key, said in arguments.items()
                },
                "required": list(arguments)[:1],
                "additionalProperties": False,
            },
            toolbelt=toolbelt,
            where="worker",
            source="catalogue:tools",
            about=MODULES.get(toolbelt, ""),
        )
        for toolbelt, rows in CATALOGUE.items()
        for name, description, arguments in rows
    ]
    return sorted(made, key=lambda info: info.name)
